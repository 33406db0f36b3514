"""Keeps the lease of a job alive while it runs."""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time

from services.common.database.jobs import Job, JobDatabase, LeaseLost, Progress
from services.common.errors import Cancelled
from services.trainer.config import TrainerSettings
from services.trainer.jobs.draining import DrainRequest

log = logging.getLogger(__name__)


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
