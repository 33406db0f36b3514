"""The job runner: a detached Ray actor that runs jobs.

The actor belongs to no replica, so it outlives the front. Ray restarts it when its process dies.
An idle runner ends after a while to free its memory, and the front starts a new one for the next
job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError

from cytosynth import traces
from services.common.database.jobs import JobDatabase
from services.common.exposition import expose
from services.common.logs import configure_logging
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs.draining import stop_by_file
from services.trainer.jobs.lifecycle import work

NAMESPACE = "cytosynth"
ACTOR_NAME = "cytosynth-job-runner"
#: Most threads that torch computes with, where nothing else is set.
_MOST_THREADS = 8

log = logging.getLogger(__name__)


class JobRunner:
    """The actor's body: a thread that leases and runs jobs."""

    def __init__(self, settings: TrainerSettings) -> None:
        configure_logging()
        traces.start(settings.traces_endpoint, "job-runner")
        expose("runner", settings)
        self._settings = settings
        self._stop, self._ended = threading.Event(), threading.Event()
        self._self = ray.get_runtime_context().current_actor
        threads = settings.runner_num_threads or min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        # Ray sets this to the CPUs booked; torch reads it when it is first imported.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if settings.drain_file:
            watched = settings.drain_file, self._stop
            threading.Thread(target=stop_by_file, args=watched, name="drain", daemon=True).start()
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    def pid(self) -> int:
        """Process id, for tests and operators."""
        return os.getpid()

    def drain(self, seconds: float) -> bool:
        """Releases the current job after a checkpoint, and leases no other.

        The actor stays, so that the front starts no other in its place.

        Returns:
            Whether the job was released within ``seconds``.
        """
        self._stop.set()
        return self._ended.wait(seconds)

    def _run(self) -> None:
        try:
            store = ArtifactStore(self._settings.store_uri)
            database = JobDatabase(self._settings.database_url)
            num_jobs = work(database, store, self._settings, self._stop)
            if self._stop.is_set():
                log.info("job runner is drained after %d jobs", num_jobs)
                self._ended.set()
                return
            log.info("job runner is idle after %d jobs and ends", num_jobs)
        except BaseException:
            log.exception("job runner ends")
            os._exit(1)  # Ray starts it again
        ray.kill(self._self, no_restart=True)


def ensure_runners(settings: TrainerSettings) -> list[Any]:
    """Handles of the runners; missing ones are started."""
    return [
        _actor_class()
        .options(
            name=runner_name(index),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=settings.runner_num_cpus,
            num_gpus=settings.runner_num_gpus,
        )
        .remote(settings)
        for index in range(settings.num_runners)
    ]


def drain_runners(most_runners: int, seconds: float) -> bool:
    """Drains the runners of this Ray cluster, all at once.

    Returns:
        Whether every runner had released its job within ``seconds``.
    """
    answers = []
    for index in range(most_runners):
        with contextlib.suppress(ValueError):  # there is none of this name
            runner = ray.get_actor(runner_name(index), namespace=NAMESPACE)
            answers.append(runner.drain.remote(seconds))
    try:
        return all(ray.get(answers, timeout=seconds + 1.0))
    except RayError:
        log.warning("a job runner could not be drained", exc_info=True)
        return False


@cache
def _actor_class() -> Any:
    """The remote class, created once: Ray exports every one that is created."""
    return ray.remote(JobRunner)


def runner_name(index: int) -> str:
    """Name of one runner actor in ``NAMESPACE``."""
    return ACTOR_NAME if index == 0 else f"{ACTOR_NAME}-{index}"
