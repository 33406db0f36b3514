"""Checkpoints of a job that trains one network after another.

The first network, which is the result, is checkpointed as if it were alone. While a later one is
trained, its checkpoints carry what the earlier ones left.
"""

from __future__ import annotations

from typing import Any

from services.trainer.compute.training_run import Checkpoints

_STAGE = "stage"
_KEPT = "kept/"


class TrainingStages:
    """Divides the checkpoints of a job between its stages."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        """Reads the last checkpoint, if there is one."""
        self._checkpoints = checkpoints
        state, files = checkpoints.load() or ({}, {})
        self._state = dict(state)
        self._stage = self._state.pop(_STAGE, "")
        self._files = {k: v for k, v in files.items() if not k.startswith(_KEPT)}
        self._kept = {k.removeprefix(_KEPT): v for k, v in files.items() if k.startswith(_KEPT)}

    def kept(self, name: str) -> bytes | None:
        """What a finished stage left; None if it has to be done."""
        return self._kept.get(name)

    def keep(self, name: str, data: bytes) -> None:
        """Carries ``data`` in all later checkpoints."""
        self._kept[name] = data

    def checkpoints(self, stage: str = "") -> Checkpoints:
        """Checkpoints of one stage; empty: of the first."""
        return _StageCheckpoints(self, stage)

    def load(self, stage: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """State and files of ``stage``, if the last checkpoint is of it."""
        return (self._state, self._files) if self._state and stage == self._stage else None

    def due(self) -> bool:
        """Whether to save now."""
        return self._checkpoints.due()

    def save(self, stage: str, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Replaces the last checkpoint by one of ``stage``."""
        state = {**state, _STAGE: stage} if stage else state
        kept = {_KEPT + name: data for name, data in self._kept.items()}
        self._checkpoints.save(state, {**files, **kept})


class _StageCheckpoints:
    def __init__(self, stages: TrainingStages, stage: str) -> None:
        self._stages, self._stage = stages, stage

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        return self._stages.load(self._stage)

    def due(self) -> bool:
        return self._stages.due()

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        self._stages.save(self._stage, state, files)
