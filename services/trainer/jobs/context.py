"""What the code of a job gets: where to read, write, report and resume."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.store.artifacts import ArtifactStore
from services.trainer.compute.training_run import Checkpoints, ProgressFn
from services.trainer.config import TrainerSettings


@dataclass(frozen=True)
class JobContext:
    """What the code of a job gets: where to read, write, report and resume.

    ``progress(phase, step, total_steps, metrics)`` must be called at least once per optimizer
    step; it raises Cancelled when a cancel was asked, Drained when the job is to be given back and
    LeaseLost when another runner took over.
    The result is to be stored under ``artifact_id``.
    """

    job_id: str
    tenant: str
    store: ArtifactStore
    settings: TrainerSettings
    progress: ProgressFn
    checkpoints: Checkpoints

    @property
    def artifact_id(self) -> str:
        """Id of the artifact this job makes: the job's own id, so that a rerun finds it."""
        return self.job_id
