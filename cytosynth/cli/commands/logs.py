"""``logs``: what the stack of this folder wrote down."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from cytosynth.cli.global_options import command
from cytosynth.cli.options import StateDir, interruptible

_POLL_SECONDS = 0.3
WHICH = ("supervisor", "edge", "access", "workers")


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    command(app, panel="Services on this machine", calls=False, json=False)(logs)


def logs(
    which: Annotated[
        str,
        typer.Argument(
            help="supervisor (start and stop), edge, access (every call), or workers "
            "(services and jobs)."
        ),
    ] = "supervisor",
    lines: Annotated[int, typer.Option("--lines", min=0, help="Last lines of each file.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added, until Ctrl-C.")
    ] = False,
    state_dir: StateDir = None,
) -> None:
    """Print the log of the stack of this folder, running or not."""
    from cytosynth.stack.state import StackFiles, default_state_dir

    files = StackFiles(state_dir or default_state_dir())
    paths = _paths(files.logs, files.ray, which)
    if not any(path.exists() for path in paths):
        raise typer.BadParameter(
            f"{files.state_dir} has no {which} log; start the services with `cytosynth up`",
            param_hint="WHICH",
        )
    printer = _Printer(several=which == "workers")
    for path in paths:
        printer.tail(path, lines)
    if follow:
        with interruptible("the services go on"):
            while True:
                for path in _paths(files.logs, files.ray, which):
                    printer.added(path)
                time.sleep(_POLL_SECONDS)


def _paths(logs: Path, ray: Path, which: str) -> list[Path]:
    if which == "workers":
        folder = ray / "session_latest" / "logs"
        return sorted([*folder.glob("worker-*.out"), *folder.glob("worker-*.err"),
                       *folder.glob("serve/*.log")])  # fmt: skip
    names = {"supervisor": "supervisor.log", "edge": "envoy.log", "access": "edge-access.jsonl"}
    if which not in names:
        raise typer.BadParameter(f"{which!r} is none of {', '.join(WHICH)}", param_hint="WHICH")
    return [logs / names[which]]


class _Printer:
    """Prints new lines of files; with several, under the file's name."""

    def __init__(self, several: bool) -> None:
        self._several = several
        self._last: Path | None = None
        self._places: dict[Path, int] = {}

    def tail(self, path: Path, num_lines: int) -> None:
        """Print the last lines of a file."""
        with self._opened(path) as file:
            self._print(path, deque(file, maxlen=num_lines))
            self._places[path] = file.tell()

    def added(self, path: Path) -> None:
        """Print added lines; a truncated file is read from its start."""
        if not path.exists():
            return
        with self._opened(path) as file:
            place = self._places.get(path, 0)
            file.seek(place if place <= os.fstat(file.fileno()).st_size else 0)
            self._print(path, list(file))
            self._places[path] = file.tell()

    def _opened(self, path: Path) -> BinaryIO:
        return path.open("rb") if path.exists() else Path(os.devnull).open("rb")

    def _print(self, path: Path, found: Iterator[bytes] | deque[bytes] | list[bytes]) -> None:
        for line in found:
            if self._several and path != self._last:
                typer.echo(f"==> {path.name} <==")
            self._last = path
            typer.echo(line.decode("utf-8", "backslashreplace").rstrip("\n"))
