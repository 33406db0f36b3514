"""OpenVINO Model Server, which comes in no wheel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import (
    OUR_PYTHON,
    REPOSITORY,
    Peer,
    ServerFailed,
    Settings,
)

DISTRIBUTION = "openvino-model-server"


class OpenVinoModelServer(Peer):
    """Asked for under the name that a wheel would have."""

    name = "openvino model server"
    candidates = ({"threads": 2},)

    @contextmanager
    def running(self, folder: Path, settings: Settings, logs: Path) -> Iterator[Target]:
        """Raises ServerFailed with what the installer says."""
        raise ServerFailed(self._what_pip_says())
        yield

    def versions(self) -> dict[str, str]:
        return {}

    def _what_pip_says(self) -> str:
        command = [str(OUR_PYTHON), "tools/site_installer.py", "pip", "index", "versions"]
        done = subprocess.run(
            [*command, DISTRIBUTION], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return " ".join(errors) or "there is a wheel now: measure it"
