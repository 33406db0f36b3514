"""Runs leased jobs: heartbeat, progress, checkpoints, cancel, and how each ended.

The runner that holds a job's lease in the database owns the job. The result has the job's own id,
so a runner that dies between writing the result and noting it does not cause a second one.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cytosynth import traces
from services.common import resource_names
from services.common.database.jobs import Job, JobDatabase, LeaseLost
from services.common.errors import Cancelled, DomainError, Unavailable
from services.common.logs import tenant_var
from services.common.resource_names import ADAPTERS, CLASSIFIERS, REPORTS
from services.common.storage_errors import storage_error
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs.checkpoints import (
    JobCheckpoints,
    failed_predecessor,
    forget_checkpoints,
)
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.draining import Drained
from services.trainer.jobs.heartbeat import Heartbeat

log = logging.getLogger(__name__)


#: Module with ``run(spec, context) -> artifact id``, and the kind of artifact that it makes.
#: Modules are named, not imported: the front needs no torch.
KINDS = {
    "fit_adapter": ("services.trainer.adapters.job", ADAPTERS),
    "fit_classifier": ("services.trainer.classifiers.job", CLASSIFIERS),
    "report": ("services.trainer.reports.job", REPORTS),
    "study": ("services.trainer.studies.job", REPORTS),
}

#: Most attempts at a job whose store or generator is away.
MAX_UNAVAILABLE_ATTEMPTS = 4
#: Longest pause before such a job is released; also the pause after storage failed, seconds.
MAX_PAUSE_SECONDS = 10.0
_IDLE_POLL_SECONDS = 0.5


def run_job(
    job: Job,
    owner: str,
    database: JobDatabase,
    store: ArtifactStore,
    settings: TrainerSettings,
    stop: threading.Event | None = None,
) -> None:
    """Runs one leased job and stores how it ended; raises nothing.

    Log lines, calls and the span belong to the request that created the job. When ``stop`` is
    set, the job saves a checkpoint and is released.
    """
    contextvars.copy_context().run(_run_for_request, job, owner, database, store, settings, stop)


def _run_for_request(
    job: Job,
    owner: str,
    database: JobDatabase,
    store: ArtifactStore,
    settings: TrainerSettings,
    stop: threading.Event | None,
) -> None:
    traces.request_id_var.set(job.request_id)
    tenant_var.set(job.tenant)
    about: dict[str, traces.Value] = {
        "cytosynth.job": job.name,
        "cytosynth.job.kind": job.kind,
        "cytosynth.job.attempt": job.attempts,
    }
    with traces.span(f"job {job.kind}", "CONSUMER", job.traceparent, about) as span:
        span.end(_run(job, owner, database, store, settings, stop))
    traces.flush()  # a runner may be gone the next moment


def _run(
    job: Job,
    owner: str,
    database: JobDatabase,
    store: ArtifactStore,
    settings: TrainerSettings,
    stop: threading.Event | None,
) -> str:
    """How the attempt ended, as the name of a gRPC status."""
    log.info("jobs/%s (%s) begins, attempt %d", job.id, job.kind, job.attempts)
    attempt = _Attempt(job, owner, database, store, Heartbeat(database, job, owner, settings, stop))
    inherited: Job | None = None
    try:
        with attempt.heartbeat as heartbeat, _stored_failure(attempt):
            module, kind = KINDS[job.kind]
            if not store.exists(job.tenant, kind, job.id):
                if not job.checkpoint:
                    inherited = failed_predecessor(store, database, job)
                checkpoints = JobCheckpoints(
                    store,
                    database,
                    job,
                    owner,
                    settings.checkpoint_seconds,
                    heartbeat.drain,
                    inherited.checkpoint if inherited else "",
                    heartbeat.count_missed_checkpoint,
                )
                context = JobContext(
                    job.id,
                    job.tenant,
                    store,
                    settings,
                    heartbeat.progress,
                    checkpoints,
                    heartbeat.drain,
                    heartbeat.count_missed_checkpoint,
                )
                artifact_id = importlib.import_module(module).run(job.spec, context)
            else:  # a runner was lost after the last write
                artifact_id = job.id
            heartbeat.flush()
            database.succeed(job.id, owner, resource_names.build(kind, artifact_id))
            log.info("jobs/%s succeeded", job.id)
    except LeaseLost:
        log.warning("jobs/%s went to another runner", job.id)
        return "ABORTED"
    except Exception:
        # The database itself is away: the lease lapses and another attempt begins.
        log.exception("jobs/%s: its end could not be stored", job.id)
        return "INTERNAL"
    try:
        if not attempt.keeps_checkpoint and database.get(job.tenant, job.id).is_final:
            for each in filter(None, (job, inherited)):
                forget_checkpoints(store, job.tenant, each.id)
    except Exception:
        log.exception("checkpoints of jobs/%s could not be removed", job.id)
    return attempt.code


@dataclass
class _Attempt:
    """One attempt at a job, and how it ended."""

    job: Job
    owner: str
    database: JobDatabase
    store: ArtifactStore
    heartbeat: Heartbeat
    code: str = "OK"
    #: Whether the next job of the same request can go on from where this one failed.
    keeps_checkpoint: bool = False

    def fail(self, error: DomainError) -> None:
        """Ends the job as FAILED; as CANCELLED where that was asked meanwhile."""
        if self._cancel_asked():
            self.cancelled()
        else:
            self.database.fail(self.job.id, self.owner, error.to_dict())

    def _cancel_asked(self) -> bool:
        return self.database.get(self.job.tenant, self.job.id).cancel_requested

    def cancelled(self) -> None:
        """Ends the job as CANCELLED."""
        self.code, self.keeps_checkpoint = Cancelled.code, False
        self.database.cancelled(self.job.id, self.owner)
        log.info("jobs/%s cancelled", self.job.id)

    def release(self) -> None:
        """Lets another runner continue the job."""
        self.database.release(self.job.id, self.owner)
        log.info("jobs/%s is released", self.job.id)

    def release_or_fail(self, error: DomainError) -> None:
        """Releases the job after a pause; the last attempt fails."""
        if self.job.attempts < MAX_UNAVAILABLE_ATTEMPTS:
            seconds = MAX_PAUSE_SECONDS
            if isinstance(error, Unavailable):
                seconds = min(seconds, error.retry_after_seconds)
            self.heartbeat.pause(f"waiting: {error.message.partition(';')[0]}", seconds)
            if self._cancel_asked():
                self.cancelled()
            else:
                self.release()
        else:
            self.keeps_checkpoint = True
            self.fail(error)

    def discard_result(self) -> None:
        """Removes what the attempt has written of its artifact."""
        try:
            kind = KINDS[self.job.kind][1]
            self.store.new_draft(self.job.tenant, kind, self.job.id).discard()
        except Exception:  # the sweep of old drafts removes it later
            log.exception("jobs/%s: a half-written result could not be removed", self.job.id)


@contextlib.contextmanager
def _stored_failure(attempt: _Attempt) -> Iterator[None]:
    """Stores how an attempt failed, cancelled or was drained; raises LeaseLost."""
    job = attempt.job
    try:
        yield
    except LeaseLost:
        raise
    except Cancelled:
        attempt.discard_result()
        attempt.cancelled()
    except Drained:
        attempt.release()
    except DomainError as error:
        attempt.code = error.code
        attempt.discard_result()
        log.warning("jobs/%s failed: %s", job.id, error)
        if isinstance(error, Unavailable):
            attempt.release_or_fail(error)
        else:
            attempt.fail(error)
    except Exception as error:
        log.exception("jobs/%s failed", job.id)
        attempt.discard_result()
        of_storage = storage_error(error)
        if of_storage is not None:
            attempt.code = of_storage.code
            attempt.release_or_fail(of_storage)
            return
        attempt.code = "INTERNAL"
        problem = f"internal error while running jobs/{job.id}; the server's log has the details"
        attempt.fail(DomainError(problem))


def work(
    database: JobDatabase,
    store: ArtifactStore,
    settings: TrainerSettings,
    stop: threading.Event,
) -> int:
    """Runs jobs, one at a time, until there were none for ``runner_idle_seconds``.

    When ``stop`` is set, the job at hand is released and no other is begun.

    Returns:
        How many jobs were run.
    """
    num_jobs, idle_since = 0, time.monotonic()
    while not stop.is_set() and time.monotonic() - idle_since < settings.runner_idle_seconds:
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            job = database.lease(owner, settings.lease_seconds)
        except Exception:
            log.exception("no job could be leased")
            job = None
        if job is None:
            stop.wait(_IDLE_POLL_SECONDS)
            continue
        run_job(job, owner, database, store, settings, stop)
        gc.collect()  # models hold themselves in cycles
        num_jobs, idle_since = num_jobs + 1, time.monotonic()
    return num_jobs
