"""PyTriton: NVIDIA's Triton with its dynamic batcher before a Python function."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import (
    BATCH_WAIT_MS,
    HOST,
    MAX_BATCH_SIZE,
    Peer,
    Settings,
    arguments,
    free_port,
)

_MODEL = "classifier"


class PyTriton(Peer):
    """Raw binary requests over Triton's HTTP."""

    name = "pytriton"
    module = "benchmarks.classifier.servers.py_triton"
    distributions = ("nvidia-pytriton", "torch")
    candidates: ClassVar[tuple[Settings, ...]] = ({"threads": 1}, {"threads": 2})

    def target(self, port: int) -> Target:
        address = f"http://{HOST}:{port}/v2/models/{_MODEL}/infer"
        headers = {
            "Inference-Header-Content-Length": "0",
            "Content-Type": "application/octet-stream",
        }
        return Target("http", address, headers=headers, answer="triton")


def main() -> None:
    """Serves until the process ends."""
    given = arguments()
    # The interpreter within Triton is an early 3.11, on which PyTriton's other serializer fails:
    # "'_thread.RLock' object has no attribute '_recursion_count'".
    os.environ["PYTRITON_NO_TENSORSTORE"] = "1"
    import numpy as np
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    from benchmarks.classifier.network import Network

    network = Network(given.model, given.threads)

    @batch
    def infer(images: Any) -> list[Any]:
        """Probabilities of a batch of encoded images (B, 1)."""
        files = [bytes(row[0]) for row in images]
        return [np.array(network.classify(files), np.float32)]

    config = TritonConfig(
        http_address=HOST,
        http_port=given.port,
        grpc_address=HOST,
        grpc_port=free_port(),
        metrics_port=free_port(),
        exit_on_error=True,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=_MODEL,
            infer_func=infer,
            inputs=[Tensor(name="images", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_SIZE,
                batcher=DynamicBatcher(max_queue_delay_microseconds=BATCH_WAIT_MS * 1000),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
