"""Training jobs are followed to their results."""

from __future__ import annotations

import json

from services.common.errors import FailedPrecondition
from tests.support.servers.toy_services.server import Cyto, ToyServices


def test_a_job_is_followed_to_its_result(cyto: Cyto) -> None:
    code, out, err = cyto("fit-adapter", "datasets/d1", "--rank", 4)
    assert (code, out) == (0, "adapters/a1\n")
    assert "training" in err
    code, out, _ = cyto("fit-classifier", "datasets/d1", "--adapter", "adapters/a1", "--no-wait")
    assert (code, out) == (0, "jobs/j2\n")
    code, out, _ = cyto("watch", "jobs/j2", "--json")
    assert code == 0
    states = [json.loads(line)["state"] for line in out.splitlines()]
    assert states == ["PENDING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"]
    code, out, _ = cyto("jobs", "--json")
    assert [job["result"] for job in json.loads(out)] == ["classifiers/c2", "adapters/a1"]
    code, out, _ = cyto("jobs")
    assert "classifiers/c2" in out


def test_a_failed_job_is_one_line_and_exit_1(cyto: Cyto, toy: ToyServices) -> None:
    toy.trainer.job_errors["fit_adapter"] = FailedPrecondition(
        "cyto-small", "has seen test images", "use cyto-small-phantoms"
    )
    code, out, err = cyto("fit-adapter", "datasets/d1")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last == "cytosynth: cyto-small: has seen test images; use cyto-small-phantoms"
