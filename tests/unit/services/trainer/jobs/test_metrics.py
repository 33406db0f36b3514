"""Figures of jobs are what the job database says."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.database.jobs import JobDatabase, Progress, migrate
from services.trainer.jobs.metrics import JobFigures


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/jobs.db"
    migrate(url)
    return url


def test_no_jobs_are_zeros_of_every_kind_and_state(url: str, clock: Clock) -> None:
    figures = JobFigures(url, ["report"], clock).read()
    assert {state for _, state in figures.counts} == {
        *("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
    }
    assert set(figures.counts.values()) == {0}
    assert figures.silent == figures.unmoved == figures.waiting == {"report": 0.0}


def test_a_waiting_job_grows_older(url: str, clock: Clock) -> None:
    JobDatabase(url, clock).create("lab", "report", {})
    clock.now += 90
    figures = JobFigures(url, ["report"], clock).read()
    assert figures.counts["report", "PENDING"] == 1
    assert figures.waiting == {"report": 90.0}


def test_heartbeats_without_steps_are_not_silent_but_unmoved(url: str, clock: Clock) -> None:
    database, figures = JobDatabase(url, clock), JobFigures(url, ["report"], clock)
    job = database.create("lab", "report", {})
    database.lease("runner", 15)
    figures.read()
    for _ in range(10):
        clock.now += 10
        database.heartbeat(job.id, "runner", 15, Progress("train", 3, 10))
        seen = figures.read()
    assert seen.silent == {"report": 0.0}
    assert seen.unmoved == {"report": 90.0}
    database.heartbeat(job.id, "runner", 15, Progress("train", 4, 10))
    assert figures.read().unmoved == {"report": 0.0}


def test_a_lost_runner_is_silent_and_the_next_one_an_attempt(url: str, clock: Clock) -> None:
    database, figures = JobDatabase(url, clock), JobFigures(url, ["report"], clock)
    database.create("lab", "report", {})
    database.lease("first", 15)
    clock.now += 40
    assert figures.read().silent == {"report": 40.0}
    database.lease("second", 15)
    seen = figures.read()
    assert seen.silent == {"report": 0.0}
    assert seen.attempts == {"report": 2}


def test_an_end_is_told_once_with_its_duration(url: str, clock: Clock) -> None:
    database = JobDatabase(url, clock)
    old = database.create("lab", "report", {})
    database.request_cancel("lab", old.id)
    clock.now += 1
    figures = JobFigures(url, ["report"], clock)
    job = database.create("lab", "report", {})
    database.lease("runner", 15)
    clock.now += 30
    database.succeed(job.id, "runner", "reports/r")
    assert figures.read().ended == [("report", "SUCCEEDED", 30.0)]
    clock.now += 5
    seen = figures.read()
    assert seen.ended == []
    assert seen.counts["report", "SUCCEEDED"] == 1
    assert seen.attempts == {"report": 0}
