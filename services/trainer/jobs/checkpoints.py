"""Where a job continues from."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import threading
import time
from typing import Any

from services.common.database.jobs import Job, JobDatabase, LeaseLost
from services.common.errors import DataLoss, NotFound
from services.common.resource_names import JOBS
from services.common.store.artifacts import ArtifactStore
from services.trainer.jobs.draining import DrainRequest

log = logging.getLogger(__name__)


class JobCheckpoints:
    """Where a job continues from. A checkpoint is whole or it is not there."""

    def __init__(
        self,
        store: ArtifactStore,
        database: JobDatabase,
        job: Job,
        owner: str,
        least_seconds: float,
        drain: DrainRequest | None = None,
    ) -> None:
        """Opens the checkpoints of ``job``; ``least_seconds`` is the time between two."""
        self._drain = drain or DrainRequest()
        self._store, self._database, self._job, self._owner = store, database, job, owner
        self._current = job.checkpoint
        self._least_seconds, self._last = least_seconds, time.monotonic()
        self._saving = threading.Lock()

    def due(self) -> bool:
        """Whether to save: the last is long ago, or the job is about to be given back."""
        if self._drain.checkpoint_wanted():
            return True
        return time.monotonic() - self._last >= self._least_seconds

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """State and files of the last checkpoint; None if there is none that can be read."""
        if not self._current:
            return None
        tenant = self._job.tenant
        try:
            manifest = self._store.get_manifest(tenant, JOBS, self._current)
            paths = list(manifest["files"])
            files = self._store.read_many(tenant, JOBS, self._current, paths)
        except (NotFound, DataLoss) as error:
            log.warning("jobs/%s starts anew: %s", self._job.id, error)
            return None
        return manifest["body"]["state"], files

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Replaces the checkpoint; of parts of a job that run side by side, the last one's stays.

        Args:
            state: Anything that JSON can hold.
            files: Bytes by path.

        Raises:
            LeaseLost: If another runner has taken the job over.
        """
        with self._saving:
            tenant = self._job.tenant
            id = f"{self._job.id}-{secrets.token_hex(6)}"
            draft = self._store.new_draft(tenant, JOBS, id)
            for path, data in files.items():
                draft.write(path, data)
            draft.commit({"parents": [], "body": {"state": state}})
            try:
                self._database.save_checkpoint(self._job.id, self._owner, id)
            except LeaseLost:
                self._store.delete(tenant, JOBS, id)
                raise
            self._last = time.monotonic()
            self._drain.saved()
            previous, self._current = self._current, id
            if previous:
                with contextlib.suppress(NotFound):
                    self._store.delete(tenant, JOBS, previous)


def forget_checkpoints(store: ArtifactStore, tenant: str, job_id: str) -> None:
    """Deletes whatever checkpoints a finished job has left, half-written ones included."""
    for id in store.folders(tenant, JOBS):
        if id.startswith(f"{job_id}-"):
            with contextlib.suppress(NotFound):
                store.delete(tenant, JOBS, id)
            store.new_draft(tenant, JOBS, id).discard()  # of a runner killed while it wrote


class PartCheckpoints:
    """JobCheckpoints of one part of the study; those of another part count as none."""

    def __init__(self, checkpoints: JobCheckpoints, part: str) -> None:
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
