"""The trainer as a Ray Serve application.

    client ──gRPC──▶ Trainer (front: datasets, jobs; no torch) ──▶ job database ◀── JobRunner × N

The front stores jobs; detached runners lease them. Neither needs the other to be alive.
"""

from __future__ import annotations

import logging
import threading
import time

from prometheus_client import Gauge, Histogram
from ray import serve

from cytosynth import traces
from services.common.database.jobs import JobDatabase, migrate
from services.common.exposition import GAUGE_OF_ONE, expose
from services.common.logs import configure_logging
from services.common.rpc.call_slots import CallSlots
from services.common.rpc.handlers import metrics_observer, set_observer
from services.common.rpc.server import SHUTDOWN_SECONDS, Listen, ServedReplica
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs.checkpoints import sweep_checkpoints
from services.trainer.jobs.lifecycle import KINDS
from services.trainer.jobs.metrics import Figures, JobFigures
from services.trainer.jobs.runner import ensure_runners
from services.trainer.service import TrainerService

APP_NAME = "trainer"
_PREFIX = "cytosynth_trainer_"
_MAX_CALLS = 64
_POLL_SECONDS = 2.0
_FIGURES_SECONDS = 5.0
_SWEEP_SECONDS = 3600.0
#: How long drafts, and checkpoints of failed jobs, are kept for whoever goes on with them.
_STALE_SECONDS = 7 * 86400.0

log = logging.getLogger(__name__)


class Trainer(TrainerService, ServedReplica):
    """The front: gRPC handlers and a thread that starts runners."""

    def __init__(self, settings: TrainerSettings, listen: Listen | None) -> None:
        configure_logging()
        traces.start(settings.traces_endpoint, APP_NAME)
        expose(APP_NAME, settings)
        set_observer(*metrics_observer(APP_NAME))
        migrate(settings.database_url)
        self._work_arrived = threading.Event()
        store = ArtifactStore(settings.store_uri)
        database = JobDatabase(settings.database_url)
        super().__init__(settings, store, database, self._work_arrived.set)
        threading.Thread(target=self._keep_runners, name="runners", daemon=True).start()
        threading.Thread(target=self._keep_figures, name="figures", daemon=True).start()
        slots = CallSlots(_MAX_CALLS, _MAX_CALLS)
        self.serve([APP_NAME], listen, settings.max_message_bytes, slots)

    def _keep_runners(self) -> None:
        swept = 0.0
        while True:
            arrived = self._work_arrived.wait(_POLL_SECONDS)
            self._work_arrived.clear()
            try:
                if arrived or self._database.has_work():
                    self._handles = ensure_runners(self._settings)
                if time.monotonic() - swept > _SWEEP_SECONDS or not swept:
                    swept = time.monotonic()
                    self._store.sweep_drafts(_STALE_SECONDS)
                    sweep_checkpoints(self._store, self._database, _STALE_SECONDS)
            except Exception:
                log.exception("the job runners could not be checked")

    def _keep_figures(self) -> None:
        figures, metrics = JobFigures(self._settings.database_url, KINDS), _JobMetrics()
        while True:
            try:
                metrics.set(figures.read())
            except Exception:
                log.exception("the figures of the jobs could not be read")
            time.sleep(_FIGURES_SECONDS)


class _JobMetrics:
    """Series of all jobs, exported by the front: runners come and go."""

    def __init__(self) -> None:
        self._jobs = _gauge("jobs", "Jobs.", ("kind", "state"))
        self._by_kind = {
            "waiting": _gauge("job_waiting_seconds", "Age of the oldest waiting job."),
            "silent": _gauge(
                "job_silent_seconds",
                "Since the last heartbeat of the running job that is silent for longest.",
            ),
            "unmoved": _gauge(
                "job_unmoved_seconds",
                "Since the running job that has stalled for longest last made a step.",
            ),
            "attempts": _gauge("job_attempts", "Most attempts of any unfinished job."),
        }
        self._seconds = Histogram(
            _PREFIX + "job_seconds",
            "From a job's creation to its end, seconds.",
            ("kind", "state"),
            buckets=(10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400),
            registry=None,
        )

    def set(self, figures: Figures) -> None:
        """Exports the figures."""
        for (kind, state), number in figures.counts.items():
            self._jobs.labels(kind, state).set(number)
        for name, gauge in self._by_kind.items():
            for kind, value in getattr(figures, name).items():
                gauge.labels(kind).set(value)
        for kind, state, seconds in figures.ended:
            self._seconds.labels(kind, state).observe(seconds)


def _gauge(name: str, about: str, labels: tuple[str, ...] = ("kind",)) -> Gauge:
    return Gauge(_PREFIX + name, about, labels, multiprocess_mode=GAUGE_OF_ONE, registry=None)


def build_app(
    settings: TrainerSettings | None = None, listen: Listen | None = None
) -> serve.Application:
    """The application: one front; runners are started when there is work."""
    settings = settings or TrainerSettings.load()
    front = serve.deployment(Trainer).options(
        name="Trainer",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=SHUTDOWN_SECONDS,
    )
    return front.bind(settings, listen)
