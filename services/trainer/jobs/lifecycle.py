"""Runs leased jobs: heartbeat, progress, checkpoints, cancel, and how each ended.

A job is owned by whoever holds its lease in the database. Its result has the job's own id, so a
runner that dies between writing the result and saying so does not make it twice.
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
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs.checkpoints import JobCheckpoints, forget_checkpoints
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.draining import Drained
from services.trainer.jobs.heartbeat import Heart

log = logging.getLogger(__name__)


#: Module with ``run(spec, context) -> artifact id``, and the kind of artifact that it makes.
#: Modules are named, not imported: the front needs no torch.
KINDS = {
    "fit_adapter": ("services.trainer.adapters.job", ADAPTERS),
    "fit_classifier": ("services.trainer.classifiers.job", CLASSIFIERS),
    "report": ("services.trainer.reports.job", REPORTS),
    "study": ("services.trainer.studies.job", REPORTS),
}

#: How often a job may be taken up when something it needs (store, generator) is away.
MAX_UNAVAILABLE_ATTEMPTS = 4
_IDLE_POLL_SECONDS = 0.5


def run_job(
    job: Job,
    owner: str,
    database: JobDatabase,
    store: ArtifactStore,
    settings: TrainerSettings,
    stop: threading.Event | None = None,
) -> None:
    """Runs one leased job to its end and stores how it ended; raises nothing.

    Its log lines, its calls and its span belong to the request that asked for it. When ``stop`` is
    set, the job saves a checkpoint and is given back.
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
    try:
        heart = Heart(database, job, owner, settings, stop)
        with heart, _stored_failure(job, owner, database) as ending:
            module, kind = KINDS[job.kind]
            if not store.exists(job.tenant, kind, job.id):
                seconds = settings.checkpoint_seconds
                checkpoints = JobCheckpoints(store, database, job, owner, seconds, heart.drain)
                context = JobContext(
                    job.id, job.tenant, store, settings, heart.progress, checkpoints
                )
                artifact_id = importlib.import_module(module).run(job.spec, context)
            else:  # a runner was lost after the last write
                artifact_id = job.id
            heart.flush()
            database.succeed(job.id, owner, resource_names.build(kind, artifact_id))
            log.info("jobs/%s succeeded", job.id)
    except LeaseLost:
        log.warning("jobs/%s went to another runner", job.id)
        return "ABORTED"
    except Exception:
        # The database itself is away: the lease lapses and somebody takes the job up again.
        log.exception("jobs/%s: its end could not be stored", job.id)
        return "INTERNAL"
    try:
        if database.get(job.tenant, job.id).is_final:
            forget_checkpoints(store, job.tenant, job.id)
    except Exception:
        log.exception("checkpoints of jobs/%s could not be removed", job.id)
    return ending.code


@dataclass
class _Ending:
    code: str = "OK"


@contextlib.contextmanager
def _stored_failure(job: Job, owner: str, database: JobDatabase) -> Iterator[_Ending]:
    ending = _Ending()
    try:
        yield ending
    except LeaseLost:
        raise
    except Cancelled as error:
        ending.code = error.code
        database.cancelled(job.id, owner)
        log.info("jobs/%s cancelled", job.id)
    except Drained:
        database.release(job.id, owner)
        log.info("jobs/%s is given back", job.id)
    except Unavailable as error:
        ending.code = error.code
        if job.attempts < MAX_UNAVAILABLE_ATTEMPTS:
            log.warning("jobs/%s is put back: %s", job.id, error)
            time.sleep(min(10.0, error.retry_after_seconds))
            database.release(job.id, owner)
        else:
            database.fail(job.id, owner, error.to_dict())
    except DomainError as error:
        ending.code = error.code
        log.warning("jobs/%s failed: %s", job.id, error)
        database.fail(job.id, owner, error.to_dict())
    except Exception:
        ending.code = "INTERNAL"
        log.exception("jobs/%s failed", job.id)
        problem = f"internal error while running jobs/{job.id}; the server's log has the details"
        database.fail(job.id, owner, DomainError(problem).to_dict())


def work(
    database: JobDatabase,
    store: ArtifactStore,
    settings: TrainerSettings,
    stop: threading.Event,
) -> int:
    """Runs jobs, one at a time, until there were none for ``runner_idle_seconds``.

    When ``stop`` is set, the job at hand is given back and no other is begun.

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
