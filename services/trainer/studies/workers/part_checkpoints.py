"""Checkpoints of the parts of a study, one file each."""

from __future__ import annotations

import io
import json
import logging
import time
import zipfile
from collections.abc import Callable
from typing import Any

from services.common.errors import NotFound
from services.common.store.artifacts import Draft
from services.trainer.jobs.draining import DrainRequest

_STATE = "state.json"
_FILES = "files/"

log = logging.getLogger(__name__)


class PartCheckpoints:
    """Where one part of a study continues from."""

    def __init__(
        self,
        work: Draft,
        part: str,
        min_seconds: float,
        drain: DrainRequest,
        on_missed: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the checkpoint of a part.

        Args:
            work: The study's work folder.
            part: Name of the part.
            min_seconds: Time between two checkpoints.
            drain: Asks for a checkpoint before its time.
            on_missed: Called for every checkpoint that could not be written.
        """
        self._work, self._path = work, f"checkpoints/{part}.zip"
        self._min_seconds, self._last = min_seconds, time.monotonic()
        self._drain, self._on_missed = drain, on_missed

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """State and files of the last readable checkpoint; None without."""
        try:
            with zipfile.ZipFile(io.BytesIO(self._work.read(self._path))) as archive:
                state: dict[str, Any] = json.loads(archive.read(_STATE))
                paths = [path for path in archive.namelist() if path.startswith(_FILES)]
                return state, {path.removeprefix(_FILES): archive.read(path) for path in paths}
        except NotFound:
            return None
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            log.warning("%s starts anew, its checkpoint is damaged: %s", self._path, error)
            return None

    def due(self) -> bool:
        """Whether to save: the last one is old, or the job drains."""
        if self._drain.checkpoint_wanted():
            return True
        return time.monotonic() - self._last >= self._min_seconds

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Replaces the checkpoint; a failure keeps the last one."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(_STATE, json.dumps(state))
            for path, data in files.items():
                archive.writestr(f"{_FILES}{path}", data)
        try:
            self._work.write(self._path, buffer.getvalue())
        except Exception:
            # A checkpoint saves time, its loss must not cost the job: a full disk passes.
            log.exception("%s could not be written", self._path)
            self._on_missed()
        self._last = time.monotonic()
        self._drain.saved()

    def remove(self) -> None:
        """Removes the checkpoint of a part that is finished."""
        self._work.remove(self._path)
