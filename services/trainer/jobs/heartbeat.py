"""Renews the lease of a job while it runs."""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time
from dataclasses import replace

from prometheus_client import Counter

from services.common.database.jobs import Job, JobDatabase, LeaseLost, Progress
from services.common.errors import Cancelled
from services.trainer.config import TrainerSettings
from services.trainer.jobs.draining import DrainRequest

log = logging.getLogger(__name__)


_STEPS = Counter(
    "cytosynth_runner_job_steps_total",
    "Steps that jobs of this kind made; a step done again counts again.",
    ("kind",),
    registry=None,
)
_BUSY = Counter(
    "cytosynth_runner_busy_seconds_total",
    "Time that runners spent on jobs of this kind, seconds.",
    ("kind",),
    registry=None,
)

#: Name, in the progress metrics, of the number of checkpoints that could not be written.
MISSED_CHECKPOINTS = "checkpoints_missed"


class Heartbeat:
    """Renews a job's lease in a thread; passes on cancel and drain."""

    def __init__(
        self,
        database: JobDatabase,
        job: Job,
        owner: str,
        settings: TrainerSettings,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepares the heartbeat; ``stop`` is set when the runner itself must end."""
        self.drain, self._end = DrainRequest(), stop or threading.Event()
        self._interrupted = threading.Event()
        self._num_missed_checkpoints = 0
        self._database, self._job, self._owner, self._settings = database, job, owner, settings
        self._stop, self._cancelled, self._lost = (threading.Event() for _ in range(3))
        self._progress = Progress(phase="starting")
        self._phase_start = (time.monotonic(), 0)
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._renew_lease,),
            name=f"heartbeat-{job.id}",
            daemon=True,
        )

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def progress(self, phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        """Notes how far the job is; costs no database call.

        Raises:
            Cancelled: If a cancel was asked.
            Drained: If the job is to be released, and nothing is lost by it now.
            LeaseLost: If the job is no longer this runner's.
        """
        now = time.monotonic()
        if phase != self._progress.phase:
            self._phase_start = (now, step)
        elif step > self._progress.step:
            _STEPS.labels(self._job.kind).inc(step - self._progress.step)
        started, first = self._phase_start
        pace = (now - started) / (step - first) if step > first else 0.0
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        if self._num_missed_checkpoints:
            finite[MISSED_CHECKPOINTS] = float(self._num_missed_checkpoints)
        eta = round(pace * max(0, total - step), 1)
        self._progress = Progress(phase, step, total, eta, finite)
        if self._lost.is_set():
            raise LeaseLost(f"{self._owner} no longer holds jobs/{self._job.id}")
        if self._cancelled.is_set():
            raise Cancelled()
        self.drain.check()

    def count_missed_checkpoint(self) -> None:
        """Shows with the progress that one more checkpoint could not be written."""
        self._num_missed_checkpoints += 1

    def pause(self, phase: str, seconds: float) -> None:
        """Shows ``phase`` and waits, at most until cancel, drain or lost lease."""
        self._progress = replace(self._progress, phase=phase, eta_seconds=0.0)
        self._interrupted.wait(seconds)

    def flush(self) -> None:
        """Stores the latest progress now; raises LeaseLost."""
        self._database.heartbeat(
            self._job.id, self._owner, self._settings.lease_seconds, self._progress
        )

    def _renew_lease(self) -> None:
        counted = time.monotonic()
        alive_until = counted + self._settings.lease_seconds
        while not self._stop.is_set():
            if self._end.is_set():
                self._ask_for_drain()
            asked = time.monotonic()
            _BUSY.labels(self._job.kind).inc(asked - counted)
            counted = asked
            try:
                wanted = self._database.heartbeat(
                    self._job.id, self._owner, self._settings.lease_seconds, self._progress
                )
            except LeaseLost:
                self._note(self._lost)
                return
            except Exception:
                log.exception("heartbeat of jobs/%s failed", self._job.id)
                if time.monotonic() > alive_until:  # another runner may hold the job by now
                    self._note(self._lost)
                    return
            else:
                alive_until = asked + self._settings.lease_seconds
                if wanted.cancel:
                    self._note(self._cancelled)
                if wanted.drain:
                    self._ask_for_drain()
            self._stop.wait(self._settings.heartbeat_seconds)

    def _ask_for_drain(self) -> None:
        self.drain.ask()
        self._interrupted.set()

    def _note(self, event: threading.Event) -> None:
        event.set()
        self._interrupted.set()
