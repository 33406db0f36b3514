"""Training jobs are followed to their results."""

from __future__ import annotations

import json

import pytest

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


@pytest.mark.parametrize(
    ("options", "option", "remedy"),
    [
        (["--synthetic-per-class", "10"], "--per-class", "add --adapter"),
        (["--per-class", "0"], "--per-class", "add --adapter"),
        (["--loss-weight", "0"], "--loss-weight", "`cytosynth adapters` lists them"),
        (["--sampler-preset", "fast"], "--sampler-preset", "add --adapter"),
        (["--clip-base", "cyto-clip"], "--clip-base", "add --architecture clip"),
        (["--architecture", "clip", "--resnet-base", "r"], "--resnet-base", "choose a ResNet"),
    ],
)
def test_options_that_do_nothing_are_refused(
    cyto: Cyto, toy: ToyServices, options: list[str], option: str, remedy: str
) -> None:
    code, _, err = cyto("fit-classifier", "datasets/d1", *options)
    assert code == 2
    told = " ".join(err.replace("│", " ").split())
    assert option in told and "has no effect" in told and remedy in told
    assert not toy.trainer.requests


def test_the_synthetic_part_reaches_the_trainer(cyto: Cyto, toy: ToyServices) -> None:
    command = ("fit-classifier", "datasets/d1", "--adapter", "adapters/a", "--no-wait")
    assert cyto(*command)[0] == 0
    assert cyto(*command, "--per-class", 7, "--sampler-preset", "fast", "--seed", 3)[0] == 0
    default, asked = (request.synthetic for request in toy.trainer.requests)
    assert (default.num_per_class, default.sampler.preset) == (200, "")
    assert (asked.num_per_class, asked.sampler.preset, asked.seed) == (7, "fast", 3)


def test_one_adapter_per_class_has_a_name_of_its_own(cyto: Cyto, toy: ToyServices) -> None:
    for options in (("--separate",), ("--shared",), ("--per-class",)):
        assert cyto("fit-adapter", "datasets/d1", "--no-wait", *options)[0] == 0
    assert [request.settings.per_class for request in toy.trainer.requests] == [True, False, True]
