"""When a job that was told to stop for a while may: right after its next checkpoint.

A phase that keeps no checkpoints is left at once, and begun again by whoever takes the job up.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

#: Calls of ``progress`` without a question for a checkpoint, after which none is to be expected.
_CALLS_WITHOUT = 3


_LOOK_SECONDS = 0.5


def stop_by_file(path: Path, stop: threading.Event) -> None:
    """Sets ``stop`` once ``path`` is written; returns when it is set, by whomever.

    A file that is older than this call is of a runner before, and says nothing.
    """
    began = time.time()
    while not stop.wait(_LOOK_SECONDS):
        try:
            written = path.stat().st_mtime
        except OSError:
            continue
        if written >= began:
            stop.set()


class Drained(Exception):
    """The job is to be given back, to be continued by another runner."""


class DrainRequest:
    """Passed between a job's heart, its checkpoints and its progress."""

    def __init__(self) -> None:
        self._asked, self._saved = threading.Event(), threading.Event()
        self._num_calls = 0

    def ask(self) -> None:
        """From any thread: the job shall stop as soon as nothing is lost by it."""
        self._asked.set()

    def checkpoint_wanted(self) -> bool:
        """Asked before each checkpoint: whether one shall be made now, due or not."""
        self._num_calls = 0
        return self._asked.is_set() and not self._saved.is_set()

    def saved(self) -> None:
        """A checkpoint has been made."""
        if self._asked.is_set():
            self._saved.set()

    def check(self) -> None:
        """Called with every progress; raises Drained when the job may be left."""
        if not self._asked.is_set():
            return
        self._num_calls += 1
        if self._saved.is_set() or self._num_calls >= _CALLS_WITHOUT:
            raise Drained
