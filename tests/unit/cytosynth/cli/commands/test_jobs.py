"""Jobs are listed, watched and cancelled."""

from __future__ import annotations

import json

from tests.support.servers.toy_services.server import Cyto, ToyServices


def test_a_job_is_cancelled(cyto: Cyto, toy: ToyServices) -> None:
    toy.trainer.hold.clear()
    cyto("fit-adapter", "datasets/d1", "--no-wait")
    assert cyto("cancel", "jobs/j1")[:2] == (0, "jobs/j1: cancelled\n")
    assert cyto("watch", "jobs/j1")[0] == 1


def test_only_so_many_jobs_as_wanted_are_listed(cyto: Cyto) -> None:
    for number in range(3):
        cyto("fit-adapter", f"datasets/d{number}", "--no-wait")
    listed = json.loads(cyto("jobs", "--limit", 2, "--json")[1])
    assert [job["name"] for job in listed] == ["jobs/j3", "jobs/j2"]
    assert cyto("jobs", "--limit", 0)[0] == 2


def test_a_finished_job_shows_all_of_its_steps(cyto: Cyto, toy: ToyServices) -> None:
    cyto("fit-adapter", "datasets/d1")
    toy.trainer.jobs["jobs/j1"].progress.step = 2  # The last step was never reported.
    assert "3/3" in cyto("jobs")[1]
