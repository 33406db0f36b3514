"""Checkpoints of jobs: saved, loaded, inherited from a failed job, and removed."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from services.common.database.jobs import FAILED, Job, JobDatabase, LeaseLost
from services.common.errors import DataLoss, NotFound
from services.common.resource_names import JOBS
from services.common.store.artifacts import ArtifactStore
from services.trainer.jobs.draining import DrainRequest

log = logging.getLogger(__name__)


class JobCheckpoints:
    """The last checkpoint of a job: whole or absent."""

    def __init__(
        self,
        store: ArtifactStore,
        database: JobDatabase,
        job: Job,
        owner: str,
        least_seconds: float,
        drain: DrainRequest | None = None,
        inherited: str = "",
        on_missed: Callable[[], None] | None = None,
    ) -> None:
        """Opens the checkpoints of ``job``.

        Args:
            store: Where they are kept.
            database: Where the job's row points at the last one.
            job: The job, leased.
            owner: Who holds its lease.
            least_seconds: Time between two checkpoints.
            drain: Asks for a checkpoint before the job is released.
            inherited: Id of an earlier job's checkpoint, to start from where this job has none.
            on_missed: Called for every checkpoint that could not be written.
        """
        self._drain = drain or DrainRequest()
        self._store, self._database, self._job, self._owner = store, database, job, owner
        self._current = job.checkpoint or inherited
        self._least_seconds, self._last = least_seconds, time.monotonic()
        self._on_missed = on_missed or (lambda: None)

    def due(self) -> bool:
        """Whether to save: long after the last save, or before draining."""
        if self._drain.checkpoint_wanted():
            return True
        return time.monotonic() - self._last >= self._least_seconds

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """State and files of the last checkpoint; None without a readable one."""
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
        """Replaces the checkpoint; where that fails, the previous one stays.

        Args:
            state: Anything that JSON can hold.
            files: Bytes by path.

        Raises:
            LeaseLost: If another runner has taken the job over.
        """
        try:
            self._replace(state, files)
        except LeaseLost:
            raise
        except Exception:
            # A checkpoint saves time, its loss must not cost the job: a full disk passes.
            log.exception("jobs/%s: a checkpoint could not be written", self._job.id)
            self._on_missed()
        # Also where it failed: a draining job must not wait for room on a full disk.
        self._last = time.monotonic()
        self._drain.saved()

    def _replace(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        id = f"{self._job.id}-{secrets.token_hex(6)}"
        draft = self._store.new_draft(self._job.tenant, JOBS, id)
        try:
            for path, data in files.items():
                draft.write(path, data)
            draft.commit({"parents": [], "body": {"state": state}})
        except Exception:
            self._remove(id)
            raise
        try:
            self._database.save_checkpoint(self._job.id, self._owner, id)
        except LeaseLost:
            self._remove(id)
            raise
        # Any other failure leaves open which of the two the database names, so both stay.
        previous, self._current = self._current, id
        if previous:
            self._remove(previous)

    def _remove(self, id: str) -> None:
        try:
            _remove_checkpoint(self._store, self._job.tenant, id)
        except Exception:  # it is removed with the others when the job has ended
            log.exception("jobs/%s: a checkpoint could not be removed", self._job.id)


def forget_checkpoints(store: ArtifactStore, tenant: str, job_id: str) -> None:
    """Deletes whatever checkpoints a finished job has left, half-written ones included."""
    for id in store.folders(tenant, JOBS):
        if id.startswith(f"{job_id}-"):
            _remove_checkpoint(store, tenant, id)


def failed_predecessor(store: ArtifactStore, database: JobDatabase, job: Job) -> Job | None:
    """The newest failed job of the same request that kept a checkpoint."""
    for earlier in database.list(job.tenant, FAILED):
        is_same = (earlier.kind, earlier.spec) == (job.kind, job.spec)
        if is_same and earlier.checkpoint and store.exists(job.tenant, JOBS, earlier.checkpoint):
            return earlier
    return None


def sweep_checkpoints(
    store: ArtifactStore, database: JobDatabase, older_than_seconds: float
) -> int:
    """Deletes checkpoints of ended jobs, those of FAILED jobs after a delay.

    Returns:
        How many were deleted.
    """
    removed = 0
    oldest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    for tenant in store.tenants():
        for id in store.folders(tenant, JOBS):
            try:
                job = database.get(tenant, id.rpartition("-")[0])
            except NotFound:  # what a study has finished, kept under an id of its own
                continue
            if job.is_final and (job.state != FAILED or job.update_time < oldest):
                _remove_checkpoint(store, tenant, id)
                removed += 1
    return removed


def _remove_checkpoint(store: ArtifactStore, tenant: str, id: str) -> None:
    with contextlib.suppress(NotFound):
        store.delete(tenant, JOBS, id)
    store.new_draft(tenant, JOBS, id).discard()  # of a runner killed while it wrote
