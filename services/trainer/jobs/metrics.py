"""Figures of all jobs for metrics: counts, waiting times, silence, attempts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product

import sqlalchemy as sa

from services.common.database.jobs import FINAL_STATES, PENDING, RUNNING
from services.common.database.tables import jobs, open_engine

STATES = (PENDING, RUNNING, *FINAL_STATES)


@dataclass(frozen=True)
class Figures:
    """Figures of the jobs by kind, times in seconds; 0 without jobs."""

    counts: dict[tuple[str, str], int]
    """Jobs by kind and state."""
    waiting: dict[str, float]
    """Time since the oldest PENDING job was created."""
    silent: dict[str, float]
    """Time since the last heartbeat of the RUNNING job that has been silent for longest."""
    unmoved: dict[str, float]
    """Time since phase or step last changed, for the RUNNING job that has stalled for longest."""
    attempts: dict[str, int]
    """Most attempts of any job that has not ended."""
    ended: list[tuple[str, str, float]] = field(default_factory=list)
    """Kind, final state and seconds from creation to end of each job that ended since last call."""


class JobFigures:
    """Reads figures from the job database; remembers each job's last move."""

    def __init__(
        self,
        database_url: str,
        kinds: Iterable[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens the database; jobs that ended before now are not reported."""
        self._engine, self._kinds, self._clock = open_engine(database_url), tuple(kinds), clock
        self._moved: dict[str, tuple[tuple[str, int, int], float]] = {}
        self._began = self._last_read = clock()
        self._reported: set[str] = set()

    def read(self) -> Figures:
        """The figures of this moment."""
        now = self._clock()
        unfinished = jobs.c.state.in_((PENDING, RUNNING))
        # A minute of overlap: an end is written with the clock of its runner.
        newly_ended = sa.and_(~unfinished, jobs.c.update_time > self._last_read - 60.0)
        columns = [jobs.c[name] for name in _COLUMNS]
        with self._engine.connect() as connection:
            counted = connection.execute(
                sa.select(jobs.c.kind, jobs.c.state, sa.func.count()).group_by("kind", "state")
            ).all()
            open_jobs = connection.execute(sa.select(*columns).where(unfinished)).all()
            ended = connection.execute(sa.select(*columns).where(newly_ended)).all()
        zero = dict.fromkeys(self._kinds, 0.0)
        figures = Figures(
            counts=dict.fromkeys(product(self._kinds, STATES), 0),
            waiting=zero.copy(),
            silent=zero.copy(),
            unmoved=zero.copy(),
            attempts=dict.fromkeys(self._kinds, 0),
        )
        figures.counts.update({(kind, state): number for kind, state, number in counted})
        moved = {}
        for job in open_jobs:
            kind = job.kind
            figures.attempts[kind] = max(figures.attempts.get(kind, 0), job.attempts)
            if job.state == PENDING:
                _raise(figures.waiting, kind, now - job.create_time)
                continue
            place = (job.phase, job.step, job.attempts)
            before = self._moved.get(job.id)
            moved[job.id] = before if before and before[0] == place else (place, now)
            _raise(figures.unmoved, kind, now - moved[job.id][1])
            _raise(figures.silent, kind, now - job.update_time)
        self._moved = moved
        for job in ended:
            if job.id not in self._reported and job.update_time > self._began:
                seconds = max(0.0, job.update_time - job.create_time)
                figures.ended.append((job.kind, job.state, seconds))
        self._reported = {job.id for job in ended}
        self._last_read = now
        return figures


_COLUMNS = ("id", "kind", "state", "phase", "step", "attempts", "create_time", "update_time")


def _raise(values: dict[str, float], kind: str, seconds: float) -> None:
    values[kind] = max(values.get(kind, 0.0), seconds)
