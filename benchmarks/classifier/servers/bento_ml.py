"""BentoML with ``@bentoml.api(batchable=True)``; the PNG is a file of a form."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import HOST, MAX_BATCH_SIZE, Peer, Settings, arguments

_FOLDER, _THREADS, _WORKERS = "BENCH_MODEL", "BENCH_THREADS", "BENCH_WORKERS"
_MAX_LATENCY_MS = 10_000


class BentoML(Peer):
    """One service, with one or two workers."""

    name = "bentoml"
    module = "benchmarks.classifier.servers.bento_ml"
    distributions = ("bentoml", "torch")
    candidates: ClassVar[tuple[Settings, ...]] = (
        {"threads": 1, "workers": 1},
        {"threads": 1, "workers": 2},
        {"threads": 2, "workers": 1},
    )

    def target(self, port: int) -> Target:
        return Target("http", f"http://{HOST}:{port}/classify", form_field="images")


def build_service() -> Any:
    """The service that ``bentoml serve`` imports; settings come from the environment."""
    import bentoml

    from benchmarks.classifier.network import Network

    @bentoml.service(
        workers=int(os.environ[_WORKERS]),
        traffic={"timeout": 60},
        logging={"access": {"enabled": False}},
    )
    class Classifier:
        """Files in, rows of probabilities out."""

        def __init__(self) -> None:
            self.network = Network(Path(os.environ[_FOLDER]), int(os.environ[_THREADS]))

        @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=_MAX_LATENCY_MS)
        def classify(self, images: list[Path]) -> list[list[float]]:
            """Probabilities of a batch."""
            return self.network.classify([image.read_bytes() for image in images])

    return Classifier


def main() -> None:
    """Becomes ``bentoml serve``."""
    given = arguments()
    os.environ |= {
        _FOLDER: str(given.model),
        _THREADS: str(given.threads),
        _WORKERS: str(given.workers),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    service = "benchmarks.classifier.servers.bento_service:Classifier"
    options = ["--host", HOST, "--port", str(given.port)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", service, *options])


if __name__ == "__main__":
    main()
