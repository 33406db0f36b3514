"""Our local stack as users start it, with the edge before it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.classifier.load.plans import Target
from benchmarks.classifier.servers.base import OUR_PYTHON, REPOSITORY, ServerFailed
from cytosynth.stack import processes as stack_processes
from cytosynth.stack.state import StackFiles

NAME = "cytosynth"
_REPLICA_MARKS = ("ServeReplica:classifier",)
_READY_SECONDS = 900


@dataclass(frozen=True)
class OurStack:
    """A running stack.

    Attributes:
        address: ``host:port`` of the edge.
        state_dir: Folder of the stack.
    """

    address: str
    state_dir: Path

    def target(self, model: str) -> Target:
        """Where a classifier or an alias is called."""
        return Target("grpc", self.address, model=model)

    def replica_bytes(self) -> int:
        """Resident memory of the classifier's replicas together."""
        files = StackFiles(self.state_dir)
        info = files.read()
        total = 0
        processes = stack_processes.stack_processes(
            files.token, info.pid if info else None, files.root
        )
        for process in processes:
            try:
                line = " ".join((process.name(), *process.cmdline()))
                if any(mark in line for mark in _REPLICA_MARKS):
                    total += process.memory_info().rss
            except psutil.Error:
                continue
        return total


@contextmanager
def running_stack(state_dir: Path, models_dir: Path) -> Iterator[OurStack]:
    """Runs ``cytosynth up`` with its defaults, and ``cytosynth down`` afterwards.

    Raises:
        ServerFailed: If it does not start.
    """
    environment = os.environ | {"CYTOSYNTH_MODELS_DIR": str(models_dir)}
    options = ["--state-dir", str(state_dir)]
    started = _cytosynth(
        environment, "up", "--port", "0", "--ready-timeout", str(_READY_SECONDS), *options
    )
    try:
        if started.returncode:
            lines = (started.stderr or started.stdout).strip().splitlines()
            raise ServerFailed(" ".join(lines)[:500])
        yield OurStack(json.loads(started.stdout)["address"], state_dir)
    finally:
        _cytosynth(environment, "down", *options)


def _cytosynth(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(OUR_PYTHON), "-m", "cytosynth.cli", "--json", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
