"""Drains a job: releases the job right after its next checkpoint.

A phase without checkpoints ends at once, and the next runner starts it again.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from services.trainer.compute.training_run import Interrupted

#: Calls of ``progress`` between which no checkpoint was asked for: a phase without checkpoints.
_CALLS_WITHOUT = 3
_POLL_SECONDS = 0.5


def stop_by_file(path: Path, stop: threading.Event) -> None:
    """Sets ``stop`` once ``path`` is written; returns when ``stop`` is set.

    A file older than this call was meant for an earlier runner and is ignored.
    """
    began = time.time()
    while not stop.wait(_POLL_SECONDS):
        try:
            written = path.stat().st_mtime
        except OSError:
            continue
        if written >= began:
            stop.set()


class Drained(Interrupted):
    """The job must be released, for another runner to continue it."""


class DrainRequest:
    """A drain, passed between a job's heartbeat, its checkpoints and its progress."""

    def __init__(self) -> None:
        self._asked, self._saved = threading.Event(), threading.Event()
        self._num_calls = 0

    def ask(self) -> None:
        """Asks the job to stop without loss; callable from any thread."""
        self._asked.set()

    def checkpoint_wanted(self) -> bool:
        """Whether a checkpoint must be made now, due or not."""
        self._num_calls = 0
        return self._asked.is_set() and not self._saved.is_set()

    def saved(self) -> None:
        """Notes that a checkpoint was made, or could not be made."""
        if self._asked.is_set():
            self._saved.set()

    def check(self) -> None:
        """Raises Drained when the job may stop; called with every progress."""
        if not self._asked.is_set():
            return
        self._num_calls += 1
        if self._saved.is_set() or self._num_calls >= _CALLS_WITHOUT:
            raise Drained
