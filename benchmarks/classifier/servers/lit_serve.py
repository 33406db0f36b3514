"""LitServe with its batching; the PNG is the body of the request."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import (
    BATCH_WAIT_MS,
    HOST,
    MAX_BATCH_SIZE,
    Peer,
    Settings,
    arguments,
)


class LitServe(Peer):
    """One API, with one or two workers."""

    name = "litserve"
    module = "benchmarks.classifier.servers.lit_serve"
    distributions = ("litserve", "torch")
    candidates: ClassVar[tuple[Settings, ...]] = (
        {"threads": 1, "workers": 1},
        {"threads": 1, "workers": 2},
        {"threads": 2, "workers": 1},
    )

    def target(self, port: int) -> Target:
        address = f"http://{HOST}:{port}/predict"
        return Target("http", address, headers={"Content-Type": "image/png"})


def main() -> None:
    """Serves until the process ends."""
    given = arguments()
    import litserve

    from benchmarks.classifier.servers.lit_api import Api

    api = Api(
        given.model,
        given.threads,
        max_batch_size=MAX_BATCH_SIZE,
        batch_timeout=BATCH_WAIT_MS / 1e3,
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=given.workers, fast_queue=True
    )
    server.run(host=HOST, port=given.port, generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
