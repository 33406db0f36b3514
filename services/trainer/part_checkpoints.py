"""The one checkpoint of a job, used by several parts of it in turn, or by none."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.trainer.jobs import Checkpoints


class NoCheckpoints:
    """For what is rather begun again."""

    def load(self) -> None:
        """There is none."""

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Is never due."""


class PartCheckpoints:
    """Checkpoints of one part of the study; those of another part count as none."""

    def __init__(self, checkpoints: Checkpoints, part: str) -> None:
        self._checkpoints = checkpoints
        self._part = hashlib.sha256(part.encode()).hexdigest()[:16]

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """The state of this part, if the last checkpoint is of it."""
        found = self._checkpoints.load()
        if found is None or found[0].get("part") != self._part:
            return None
        return found[0]["state"], found[1]

    def due(self) -> bool:
        """Whether another is worth its time."""
        return self._checkpoints.due()

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Replaces the checkpoint, whosever it was."""
        self._checkpoints.save({"part": self._part, "state": state}, files)
