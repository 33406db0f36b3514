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
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cytosynth import traces
from services.common import resource_names
from services.common.artifact_store import ArtifactStore
from services.common.errors import Cancelled, DataLoss, DomainError, NotFound, Unavailable
from services.common.job_database import Job, JobDatabase, LeaseLost, Progress
from services.common.logs import tenant_var
from services.common.resource_names import ADAPTERS, CLASSIFIERS, JOBS, REPORTS
from services.trainer.config import TrainerSettings
from services.trainer.draining import Drained, DrainRequest

log = logging.getLogger(__name__)

#: ``progress(phase, step, total_steps, metrics)``; raises Cancelled, Drained or LeaseLost.
ProgressFn = Callable[[str, int, int, dict[str, float]], None]

#: Module with ``run(spec, context) -> artifact id``, and the kind of artifact that it makes.
#: Modules are named, not imported: the front needs no torch.
KINDS = {
    "fit_adapter": ("services.trainer.fit_adapter", ADAPTERS),
    "fit_classifier": ("services.trainer.fit_classifier", CLASSIFIERS),
    "report": ("services.trainer.report", REPORTS),
    "study": ("services.trainer.study", REPORTS),
}

#: How often a job may be taken up when something it needs (store, generator) is away.
MAX_UNAVAILABLE_ATTEMPTS = 4
_IDLE_POLL_SECONDS = 0.5


class Checkpoints:
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


class Heart:
    """Keeps a job's lease alive from a thread of its own, and passes a cancel or a drain on."""

    def __init__(
        self,
        database: JobDatabase,
        job: Job,
        owner: str,
        settings: TrainerSettings,
        stop: threading.Event | None = None,
    ) -> None:
        """``stop`` is set when the runner itself shall end."""
        self.drain, self._end = DrainRequest(), stop or threading.Event()
        self._database, self._job, self._owner, self._settings = database, job, owner, settings
        self._stop, self._cancelled, self._lost = (threading.Event() for _ in range(3))
        self._progress = Progress(phase="starting")
        self._phase_start = (time.monotonic(), 0)
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._beat,),
            name=f"heart-{job.id}",
            daemon=True,
        )

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def progress(self, phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        """Notes how far the job is; costs no database call.

        Raises:
            Cancelled: If a cancel was asked.
            Drained: If the job is to be given back, and nothing is lost by it now.
            LeaseLost: If the job is no longer this runner's.
        """
        now = time.monotonic()
        if phase != self._progress.phase:
            self._phase_start = (now, step)
        started, first = self._phase_start
        pace = (now - started) / (step - first) if step > first else 0.0
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        eta = round(pace * max(0, total - step), 1)
        self._progress = Progress(phase, step, total, eta, finite)
        if self._lost.is_set():
            raise LeaseLost(f"{self._owner} no longer holds jobs/{self._job.id}")
        if self._cancelled.is_set():
            raise Cancelled()
        self.drain.check()

    def flush(self) -> None:
        """Stores the latest progress now; raises LeaseLost."""
        self._database.heartbeat(
            self._job.id, self._owner, self._settings.lease_seconds, self._progress
        )

    def _beat(self) -> None:
        alive_until = time.monotonic() + self._settings.lease_seconds
        while not self._stop.is_set():
            if self._end.is_set():
                self.drain.ask()
            asked = time.monotonic()
            try:
                wanted = self._database.heartbeat(
                    self._job.id, self._owner, self._settings.lease_seconds, self._progress
                )
            except LeaseLost:
                self._lost.set()
                return
            except Exception:
                log.exception("heartbeat of jobs/%s failed", self._job.id)
                if time.monotonic() > alive_until:  # somebody else may hold the job by now
                    self._lost.set()
                    return
            else:
                alive_until = asked + self._settings.lease_seconds
                if wanted.cancel:
                    self._cancelled.set()
                if wanted.drain:
                    self.drain.ask()
            self._stop.wait(self._settings.heartbeat_seconds)


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
                checkpoints = Checkpoints(store, database, job, owner, seconds, heart.drain)
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
