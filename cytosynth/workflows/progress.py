"""Phases of a workflow, their seconds, and the keys that make it resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytosynth.client import Dataset, ImageTree, Job, JobHandle
from cytosynth.client.atomic_files import write_whole
from cytosynth.client.errors import invalid_argument

RUN_FILE = "run.json"


class Listener:
    """Is told of phases and progress; this one ignores them."""

    def begin(self, phase: str) -> None:
        """A phase begins."""

    def count(self, done: int, total: int) -> None:
        """Things done of the phase, and in all."""

    def job(self, job: Job) -> None:
        """The phase's job has come so far."""

    def dataset(self, dataset: Dataset) -> None:
        """The split is locked."""

    def end(self, phase: str, seconds: float) -> None:
        """The phase is over."""


class Phase:
    """One phase of a workflow while it runs."""

    def __init__(self, key: str, listener: Listener) -> None:
        self.key = key
        self.listener = listener
        self.count = listener.count

    def job(self, create: Callable[..., JobHandle], *args: Any, **settings: Any) -> str:
        """Create the phase's job, or find it again, and wait; returns what it made.

        A job that an earlier run left failed or cancelled gets a successor. Ctrl-C cancels it.
        """
        attempt = 0
        while True:
            handle = create(*args, **settings, idempotency_key=f"{self.key}-{attempt}")
            if handle.job.state not in ("FAILED", "CANCELLED"):
                break
            attempt += 1
        try:
            return handle.wait(self.listener.job).result
        except KeyboardInterrupt:
            handle.cancel()
            raise


class Progress:
    """The phases of one run, kept in ``<out>/run.json``.

    The same options and images in the same folder go on with the run that did not finish: every
    request carries a key made from the run's id, and the services know what they did for it.
    """

    def __init__(self, out: Path, options: Any, images: ImageTree, listener: Listener) -> None:
        if out.exists() and not out.is_dir():
            raise invalid_argument("out", f"{out} is not a folder", "name another")
        self._path = out / RUN_FILE
        self._listener = listener
        asked = hashlib.sha256()
        asked.update(json.dumps(dataclasses.asdict(options), default=str, sort_keys=True).encode())
        for image in images.images:
            asked.update(f"{image.file_name}\0{image.patient_id}\0".encode())
            asked.update(hashlib.sha256(image.path.read_bytes()).digest())
        fresh = {
            "run_id": uuid.uuid4().hex,
            "request": asked.hexdigest(),
            "finished": False,
            "seconds": {},
        }
        before = self._read()
        goes_on = before.get("request") == fresh["request"] and not before.get("finished")
        self._state: dict[str, Any] = dict(before) if goes_on else fresh
        self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per phase so far, earlier attempts included."""
        return dict(self._state["seconds"])

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Run one phase and note how long it took."""
        started = time.monotonic()
        self._listener.begin(name)
        try:
            yield Phase(f"{self._state['run_id']}-{name}", self._listener)
        finally:
            spent = time.monotonic() - started
            self.note(name, spent)
        self._listener.end(name, spent)

    def note(self, name: str, seconds: float) -> None:
        """Add to the seconds of a phase."""
        if seconds > 0:
            spent = self._state["seconds"].get(name, 0.0) + seconds
            self._state["seconds"][name] = round(spent, 2)
            self._write()

    def finish(self) -> None:
        """The next run with the same options is a new one."""
        self._state["finished"] = True
        self._write()

    def _read(self) -> Mapping[str, Any]:
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        known = isinstance(state, dict) and {"run_id", "request", "finished", "seconds"} <= set(
            state
        )
        return state if known else {}

    def _write(self) -> None:
        write_whole(self._path, json.dumps(self._state, indent=2).encode() + b"\n")
