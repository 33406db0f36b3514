"""A runner exports its steps and the time it works."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.trainer.jobs.heartbeat import Heartbeat
from tests.support.jobs import OWNER, leased
from tests.support.servers.series import own_series


def test_steps_and_time_are_exported(database, settings, tmp_path) -> None:
    job = replace(leased(database, settings, {}), kind="counted")
    with own_series(tmp_path / "series") as read:
        with Heartbeat(database, job, OWNER, settings) as heartbeat:
            for phase, step in (
                ("training", 500),  # goes on from a checkpoint: not made here
                ("training", 503),
                ("training", 502),  # a step again
                ("training", 504),
                ("writing", 1),
                ("writing", 2),
            ):
                heartbeat.progress(phase, step, 600, {})
            heartbeat.pause("waiting", 0.2)
        found = read()
    assert found['cytosynth_runner_job_steps_total{kind="counted"}'] == 3 + 2 + 1
    assert found['cytosynth_runner_busy_seconds_total{kind="counted"}'] == pytest.approx(
        0.2, abs=0.1
    )
