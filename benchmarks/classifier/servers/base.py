"""A server of the comparison: settings, a process, an address.

Imported in the peers' environment too, so it needs the standard library and psutil only.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import psutil

from benchmarks.classifier.load.plans import Target

REPOSITORY = Path(__file__).resolve().parents[3]
OUR_PYTHON = Path(sys.executable)
PEERS_PYTHON = REPOSITORY / ".venv/bench-peers/bin/python"
HOST = "127.0.0.1"
MAX_BATCH_SIZE, BATCH_WAIT_MS = 16, 5
"""Settings of every peer that batches."""

Settings = dict[str, int]


class ServerFailed(Exception):
    """A server does not start here; the message quotes why."""


class Peer:
    """A server other than ours, one process group for each network.

    A subclass names itself, its module (whose ``main`` serves), the Python that runs it, and the
    settings that are tried; the fastest of them at 16 callers is measured.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    python: ClassVar[Path] = PEERS_PYTHON
    distributions: ClassVar[tuple[str, ...]] = ()
    candidates: ClassVar[tuple[Settings, ...]] = ({"threads": 1}, {"threads": 2})

    def target(self, port: int) -> Target:
        """Where and how the server is called."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Versions of its distributions, as installed."""
        code = (
            "import importlib.metadata as m, sys; "
            "print(*[f'{n} {m.version(n)}' for n in sys.argv[1:]], sep='\\n')"
        )
        done = subprocess.run(
            [str(self.python), "-c", code, *self.distributions],
            capture_output=True,
            text=True,
            check=False,
        )
        return {
            name: version
            for name, _, version in (line.partition(" ") for line in done.stdout.splitlines())
        }

    @contextmanager
    def running(self, folder: Path, settings: Settings, logs: Path) -> Iterator[Target]:
        """Starts the server, and ends all its processes afterwards.

        The server may still be loading: the caller asks it until it answers.

        Raises:
            ServerFailed: If its Python is missing.
        """
        if not self.python.exists():
            raise ServerFailed(f"{self.python} is missing: run make bench-peers")
        port = free_port()
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = [str(self.python), "-m", self.module, f"--model={folder}", f"--port={port}"]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(settings["threads"]),
            "MKL_NUM_THREADS": str(settings["threads"]),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
        }
        log = logs / f"{self.name}-{folder.name}.log".replace(" ", "-")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=logs,
                start_new_session=True,
            )
            self._process, self._log = process, log
            try:
                yield self.target(port)
            finally:
                end_session(process)

    def check_alive(self) -> None:
        """Raises ServerFailed, quoting the log, once the process has ended."""
        if self._process.poll() is not None:
            raise ServerFailed(last_words(self._log) or f"exit {self._process.returncode}")

    def last_words(self) -> str:
        """What the server wrote last."""
        return last_words(self._log)


def arguments() -> argparse.Namespace:
    """Options that every server takes: ``model``, ``port`` and ``threads``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def last_words(log: Path) -> str:
    """The last line of a log about an error, or the last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "error:" in line.lower()]
    return (telling or lines or [""])[-1][:500]


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, its descendants and its session."""
    found = {process.pid: psutil.Process(process.pid)} if process.poll() is None else {}
    for one in psutil.process_iter():
        try:
            if os.getsid(one.pid) == process.pid:
                found[one.pid] = one
        except OSError:
            continue
    for one in list(found.values()):
        try:
            found |= {child.pid: child for child in one.children(recursive=True)}
        except psutil.Error:
            continue
    _signal(list(found.values()), "terminate")
    _, stubborn = psutil.wait_procs(list(found.values()), timeout=10.0)
    _signal(stubborn, "kill")
    psutil.wait_procs(stubborn, timeout=5.0)
    process.wait(timeout=5.0)
    time.sleep(0.5)  # ports and memory are given back


def _signal(processes: Sequence[psutil.Process], name: str) -> None:
    for process in processes:
        try:
            getattr(process, name)()
        except psutil.Error:
            continue
