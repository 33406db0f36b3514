"""What a job's code works with: store, settings, progress, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.store.artifacts import ArtifactStore
from services.trainer.compute.training_run import Checkpoints, ProgressFn
from services.trainer.config import TrainerSettings
from services.trainer.jobs.draining import DrainRequest


@dataclass(frozen=True)
class JobContext:
    """What a job's code works with: store, settings, progress, checkpoints.

    ``progress(phase, step, total_steps, metrics)`` must be called at least once per optimizer
    step. The call raises Cancelled when a cancel was asked, Drained when the job must be released,
    and LeaseLost when another runner took over. The result must be stored under ``artifact_id``.
    """

    job_id: str
    tenant: str
    store: ArtifactStore
    settings: TrainerSettings
    progress: ProgressFn
    checkpoints: Checkpoints
    drain: DrainRequest = field(default_factory=DrainRequest)
    count_missed_checkpoint: Callable[[], None] = lambda: None

    @property
    def artifact_id(self) -> str:
        """Id of the job's artifact: the job's own id, for reruns."""
        return self.job_id
