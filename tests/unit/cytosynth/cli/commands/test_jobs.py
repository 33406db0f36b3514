"""Jobs are listed, watched and cancelled."""

from __future__ import annotations

from tests.support.servers.toy_services.server import Cyto, ToyServices


def test_a_job_is_cancelled(cyto: Cyto, toy: ToyServices) -> None:
    toy.trainer.hold.clear()
    cyto("fit-adapter", "datasets/d1", "--no-wait")
    assert cyto("cancel", "jobs/j1")[:2] == (0, "jobs/j1: cancelled\n")
    assert cyto("watch", "jobs/j1")[0] == 1
