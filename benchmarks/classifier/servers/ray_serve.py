"""Ray Serve over HTTP, with ``@serve.batch``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import (
    BATCH_WAIT_MS,
    HOST,
    MAX_BATCH_SIZE,
    OUR_PYTHON,
    Peer,
    Settings,
    arguments,
)


class RayServe(Peer):
    """One deployment behind Serve's HTTP proxy."""

    name = "ray serve"
    module = "benchmarks.classifier.servers.ray_serve"
    python = OUR_PYTHON
    distributions = ("ray", "torch")
    candidates: ClassVar[tuple[Settings, ...]] = (
        {"threads": 1, "workers": 1},
        {"threads": 1, "workers": 2},
        {"threads": 2, "workers": 1},
    )

    def target(self, port: int) -> Target:
        return Target("http", f"http://{HOST}:{port}/", headers={"Content-Type": "image/png"})


def build_app(folder: Path, num_threads: int, num_replicas: int) -> Any:
    """The application: PNG in, list of probabilities out."""
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(
        num_replicas=num_replicas, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0}
    )
    class Classifier:
        """One replica."""

        def __init__(self) -> None:
            from benchmarks.classifier.network import Network

            self._network = Network(folder, num_threads)

        @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_MS / 1e3)
        async def classify(self, files: list[bytes]) -> list[list[float]]:
            """Probabilities of a batch, computed in a thread."""
            import asyncio

            return await asyncio.to_thread(self._network.classify, files)

        async def __call__(self, request: Request) -> list[float]:
            """Answer one POST."""
            answer: list[float] = await self.classify(await request.body())
            return answer

    return Classifier.bind()


def main() -> None:
    """Serves until the process ends."""
    given = arguments()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"host": HOST, "port": given.port})
    serve.run(build_app(given.model, given.threads, given.workers))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
