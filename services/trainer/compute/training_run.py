"""Progress and checkpoints, as a training is handed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

PHASE_TRAIN_CLASSIFIER = "training classifier"
"""Phase whose steps are optimizer steps of a classifier."""

ProgressFn = Callable[[str, int, int, dict[str, float]], None]
"""``progress(phase, step, total_steps, metrics)``, at least once a step; may raise to stop."""


class Interrupted(Exception):
    """Raised by a training that was asked to end early."""


class Checkpoints(Protocol):
    """Where a training keeps its state between steps, and resumes from."""

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """State and files of the last checkpoint; None if there is none."""
        ...

    def due(self) -> bool:
        """Whether to save now; asked after every step."""
        ...

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Replaces the last checkpoint; ``state`` is JSON, ``files`` are by path."""
        ...


class NoCheckpoints:
    """Checkpoints of a training that starts over when interrupted."""

    def load(self) -> None:
        """None, as there is never a checkpoint."""

    def due(self) -> bool:
        """False, as no checkpoint is ever due."""
        return False

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Not called, as none is ever due."""
        raise AssertionError("no checkpoint is due")
