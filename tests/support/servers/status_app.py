"""A small Ray Serve app whose handlers fail in every way.

Usage: ``python -m tests.support.servers.status_app <grpc port> <other port> <temp dir>``; prints
``ready`` and lives until its standard input closes.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import ray
from ray import serve

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from services.common import errors
from services.common.logs import configure_logging
from services.common.rpc.call_slots import CallSlots
from services.common.rpc.handlers import (
    bidi_stream,
    client_stream,
    metrics_observer,
    server_stream,
    set_observer,
    unary,
)
from services.common.rpc.server import Listen, ServedReplica


def _fail(how: str) -> None:
    match how:
        case "invalid":
            raise errors.InvalidArgument("model", "is wrong", "send another")
        case "missing":
            raise errors.NotFound("classifiers/none", "list them")
        case "busy":
            raise errors.ResourceExhausted("the queue is full", "wait", 1.5)
        case "bug":
            raise RuntimeError("secret /srv/path at 10.0.0.1:4242")
        case "long":
            raise errors.InvalidArgument("model", "ü" * 100_000)
        case "dead":
            os.kill(os.getpid(), signal.SIGKILL)


@serve.deployment
class Inner:
    async def work(self, how: str) -> str:
        _fail(how)
        return how

    async def steps(self, how: str, count: int):
        for step in range(count):
            yield step
        _fail(how)


@serve.deployment
class Front(
    ServedReplica,
    classifier_pb2_grpc.ClassifierServiceServicer,
    trainer_pb2_grpc.TrainerServiceServicer,
):
    def __init__(self, inner: serve.handle.DeploymentHandle, marks: str, listen: Listen) -> None:
        configure_logging()
        set_observer(*metrics_observer("app"))
        self._inner, self._marks = inner, Path(marks)
        self.serve(["classifier", "trainer"], listen, 32 * 1024 * 1024, CallSlots(16, 16))

    @unary(classifier_pb2.ClassifyResponse)
    async def Classify(self, request, call):
        if request.model.startswith("inner-"):
            await self._inner.work.remote(request.model.removeprefix("inner-"))
        if request.model == "sleep":
            try:
                await asyncio.sleep(60)
            finally:
                (self._marks / "unary-cleaned").touch()
        _fail(request.model)
        return classifier_pb2.ClassifyResponse(model=f"{call.tenant} {call.request_id}")

    @server_stream
    async def WatchJob(self, request, call):
        how, _, count = request.name.partition(":")
        try:
            for step in range(int(count or 0)):
                answer = trainer_pb2.WatchJobResponse()
                answer.job.progress.step = step
                answer.job.name = "x" * (100_000 if how == "large" else 0)
                yield answer
            if how == "dead":
                async for _ in self._inner.options(stream=True).steps.remote(how, 1):
                    pass
            if how == "sleep":
                await asyncio.sleep(60)
            _fail(how)
        finally:
            (self._marks / f"stream-cleaned-{how}").touch()

    @client_stream(trainer_pb2.UploadDatasetResponse)
    async def UploadDataset(self, requests, call):
        count, committed = 0, False
        try:
            async for request in requests:
                count += 1
                committed = request.HasField("commit")
                _fail(request.header.display_name)
            if not committed:
                raise errors.InvalidArgument("commit", "is missing", "send it last")
        finally:
            (self._marks / f"upload-{'done' if committed else 'cut'}-{count}").touch()
        response = trainer_pb2.UploadDatasetResponse()
        response.dataset.display_name = str(count)
        return response

    @bidi_stream
    async def ClassifyStream(self, requests, call):
        try:
            async for request in requests:
                _fail(request.model)
                yield classifier_pb2.ClassifyStreamResponse(model=request.model)
        finally:
            (self._marks / "bidi-cleaned").touch()


def main(grpc_port: int, other_port: int, temp_dir: str) -> None:
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=80 * 1024 * 1024,
        _temp_dir=temp_dir,
        log_to_driver=True,
    )
    serve.start(proxy_location="Disabled")
    listen = Listen("127.0.0.1", (grpc_port, other_port))
    serve.run(Front.bind(Inner.bind(), temp_dir, listen), name="app", route_prefix=None)
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
