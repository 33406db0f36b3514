"""Bare ``grpc.aio``: no batches; decoding and torch run in threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import HOST, OUR_PYTHON, Peer, Settings, arguments


class BareGrpc(Peer):
    """The proto's Classify on a plain asyncio server."""

    name = "grpc.aio"
    module = "benchmarks.classifier.servers.bare_grpc"
    python = OUR_PYTHON
    distributions = ("grpcio", "torch")
    candidates: ClassVar[tuple[Settings, ...]] = (
        {"threads": 1, "workers": 1},
        {"threads": 1, "workers": 2},
        {"threads": 2, "workers": 1},
    )

    def target(self, port: int) -> Target:
        return Target("grpc", f"{HOST}:{port}")


async def serve(folder: Path, port: int, num_threads: int, num_workers: int) -> None:
    """Serves until the process ends."""
    import grpc.aio

    from benchmarks.classifier.network import Network
    from cytosynth.classifier.v1 import classifier_pb2 as pb
    from cytosynth.classifier.v1 import classifier_pb2_grpc as pb_grpc

    network = Network(folder, num_threads)
    pool = ThreadPoolExecutor(num_workers)

    class Service(pb_grpc.ClassifierServiceServicer):
        """Classify alone."""

        async def Classify(  # noqa: N802
            self, request: pb.ClassifyRequest, context: grpc.aio.ServicerContext
        ) -> pb.ClassifyResponse:
            """Classify each image by itself."""
            loop = asyncio.get_running_loop()
            response = pb.ClassifyResponse()
            for image in request.images:
                [row] = await loop.run_in_executor(pool, network.classify, [image])
                ranked = sorted(zip(network.class_ids, row, strict=True), key=lambda each: -each[1])
                response.classifications.add(
                    class_id=ranked[0][0],
                    probabilities=[
                        pb.ClassProbability(class_id=name, probability=value)
                        for name, value in ranked
                    ],
                )
            return response

    server = grpc.aio.server()
    pb_grpc.add_ClassifierServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    given = arguments()
    asyncio.run(serve(given.model, given.port, given.threads, given.workers))
