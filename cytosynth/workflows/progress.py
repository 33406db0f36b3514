"""Phases of a workflow, their seconds, and its idempotency keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytosynth.client import Dataset, ImageTree, Job, JobHandle
from cytosynth.client.atomic_files import write_whole
from cytosynth.client.errors import CytosynthError, FieldViolation, invalid_argument

RUN_FILE = "run.json"
MAX_DISPLAY_NAME = 200


class Listener:
    """Receives phases and progress; this base class ignores them."""

    def begin(self, phase: str) -> None:
        """A phase begins."""

    def count(self, done: int, total: int) -> None:
        """Items done in the phase, and items in all."""

    def job(self, job: Job) -> None:
        """The state of the phase's job."""

    def notices(self, texts: tuple[str, ...]) -> None:
        """What a user must know about the images."""

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
        """Create the phase's job or find it again; returns its result.

        A job that an earlier run left failed or cancelled gets a successor. Ctrl-C leaves the job
        to the services, and the same phase finds it again.
        """
        attempt = 0
        while True:
            handle = create(*args, **settings, idempotency_key=f"{self.key}-{attempt}")
            if handle.job.state not in ("FAILED", "CANCELLED"):
                break
            attempt += 1
        return handle.wait(self.listener.job).result


class Progress:
    """The phases of one run, kept in ``<out>/run.json``.

    The same options and images in the same folder continue an unfinished run. Every request
    carries a key made from the run's id, by which the services find earlier results.

    Raises:
        CytosynthError: ``out`` is no folder, or holds a run of other options or images.
    """

    def __init__(self, out: Path, options: Any, images: ImageTree, listener: Listener) -> None:
        check_folder(out, options)
        self._path = out / RUN_FILE
        self._listener = listener
        digest = _images_digest(images)
        before = _read(self._path)
        if before.get("images", digest) != digest:
            raise _holds_another_run(
                out, [FieldViolation("data", "its images were others when the run began")]
            )
        goes_on = before.get("images") == digest and not before["finished"]
        self._state: dict[str, Any] = (
            dict(before)
            if goes_on
            else {
                "run_id": uuid.uuid4().hex,
                "options": _plain(options),
                "images": digest,
                "finished": False,
                "seconds": {},
            }
        )
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
        """Mark the run finished; the same options then start a new one."""
        self._state["finished"] = True
        self._write()

    def _write(self) -> None:
        write_whole(self._path, json.dumps(self._state, indent=2).encode() + b"\n")


def check_folder(out: Path, options: Any) -> None:
    """Refuse a folder that holds a run of other options.

    Raises:
        CytosynthError: Names the options that differ.
    """
    if out.exists() and not out.is_dir():
        raise invalid_argument("out", f"{out} is not a folder", "name another")
    before = _read(out / RUN_FILE)
    if not before:
        return
    if "options" not in before:
        raise _holds_another_run(out, [FieldViolation("options", "are an earlier version's")])
    defaults = _plain(type(options)(data=options.data, out=options.out))
    # What an earlier version had no option for was done as by default.
    then, now = {**_flat(defaults), **_flat(before["options"])}, _flat(_plain(options))
    differing = [
        FieldViolation(name, f"was {then.get(name)!r}, is {now.get(name)!r}")
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if differing:
        raise _holds_another_run(out, differing)


def display_name(folder: Path) -> str:
    """Display name for a dataset from ``folder``, escaped if not text."""
    name = folder.resolve().name.encode("utf-8", "backslashreplace").decode()
    return name[:MAX_DISPLAY_NAME]


def _holds_another_run(out: Path, differing: list[FieldViolation]) -> CytosynthError:
    changes = ", ".join(f"{item.field} {item.description}" for item in differing)
    return CytosynthError(
        "FAILED_PRECONDITION",
        f"{out} holds another run: {changes}",
        field_violations=differing,
        remedy="choose another --out, or give the options of that run",
    )


def _plain(options: Any) -> Any:
    """Options as JSON values, without the folder that they are kept in."""
    values = dataclasses.asdict(options)
    del values["out"]
    values["data"] = str(options.data.resolve())
    return json.loads(json.dumps(values, default=str))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by path, as ``settings.num_draws``; class shots stay together."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and name == "settings":
            found |= _flat(value, f"{name}.")
        else:
            found[prefix + name] = value
    return found


def _images_digest(images: ImageTree) -> str:
    digest = hashlib.sha256()
    for image in images.images:
        digest.update(os.fsencode(f"{image.file_name}\0{image.patient_id}\0"))
        digest.update(hashlib.sha256(image.path.read_bytes()).digest())
    return digest.hexdigest()


def _read(path: Path) -> Mapping[str, Any]:
    """A run file; empty if there is none or it is damaged."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(state, dict) and {"run_id", "finished", "seconds"} <= set(state)
    return state if known else {}
