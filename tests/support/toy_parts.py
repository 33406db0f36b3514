"""Job parts that only note when and where they ran."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.common.errors import InvalidArgument
from services.trainer.compute.parallel_training import Link, run_in_processes
from services.trainer.compute.training_run import Interrupted

LIMIT_SECONDS = 30.0


class Unpicklable(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


@dataclass(frozen=True)
class ToyPart:
    """A part that notes its beginning, then acts as ``do`` says."""

    name: str
    after: tuple[str, ...] = ()
    do: str = ""


def begin(folder: Path, link: Link) -> Callable[[ToyPart], None]:
    """Worker function that runs toy parts and notes them in a file."""

    def note(text: str) -> None:
        with open(folder / "notes", "a") as file:
            file.write(f"{text} {os.getpid()}\n")

    def carry_out(part: ToyPart) -> None:
        note(f"begin {part.name}")
        link.send(part.name)
        if part.do == "refuse":
            raise InvalidArgument("settings.arms", "is wrong", "send another")
        if part.do == "break":
            raise Unpicklable(1, 2)
        if part.do == "fill":
            raise OSError(28, "No space left on device")
        if part.do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if part.do == "meet":
            wait_until(lambda: len(begun(folder)) > 1)
        if part.do == "work":
            for _ in range(int(LIMIT_SECONDS / 0.01)):
                link.check()
                if link.drain_wanted():
                    time.sleep(0.2)
                    note(f"saved {part.name}")
                    raise Interrupted(part.name)
                time.sleep(0.01)
                note("works")
        note(f"end {part.name}")

    return carry_out


def lines(folder: Path) -> list[list[str]]:
    """What was noted: words of each line."""
    path = folder / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def begun(folder: Path) -> list[str]:
    """Names of the parts that have begun, in that order."""
    return [words[1] for words in lines(folder) if words[0] == "begin"]


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def main() -> None:
    """Run a two-part job in the argument's folder until it is killed."""
    parts = [ToyPart("a", do="work"), ToyPart("b", do="work")]
    run_in_processes(parts, partial(begin, Path(sys.argv[1])), 2, lambda _: False)


if __name__ == "__main__":
    main()
