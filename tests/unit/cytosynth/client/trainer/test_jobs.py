"""A job is followed to its end, across broken streams."""

from __future__ import annotations

import pytest

from cytosynth.client import (
    AdapterSettings,
    ClassifierSettings,
    Client,
    JobFailed,
)
from services.common.errors import FailedPrecondition
from tests.support.servers.toy_services.server import ToyServices


def test_a_job_is_followed_to_its_result(toy: ToyServices, client: Client) -> None:
    handle = client.fit_adapter("datasets/d", AdapterSettings(rank=8, per_class=True), base="toy")
    assert handle.job.state == "PENDING"
    steps = [(job.state, job.progress.step) for job in handle.watch()]
    assert steps == [
        ("PENDING", 0),
        ("RUNNING", 1),
        ("RUNNING", 2),
        ("RUNNING", 3),
        ("SUCCEEDED", 3),
    ]
    assert handle.wait().result == "adapters/a1"
    settings = toy.trainer.requests[0].settings
    assert (settings.rank, settings.per_class) == (8, True)
    assert not settings.HasField("num_steps")


def test_a_broken_watch_goes_on(toy: ToyServices, client: Client) -> None:
    toy.trainer.break_watch_after = [2, 1]
    handle = client.fit_adapter("datasets/d")
    states = [(job.state, job.progress.step) for job in handle.watch()]
    assert states[-1] == ("SUCCEEDED", 3)
    assert len(states) == len(set(states))


def test_a_failed_job_raises_its_error(toy: ToyServices, client: Client) -> None:
    toy.trainer.job_errors["fit_classifier"] = FailedPrecondition(
        "cyto-small", "has seen test images", "use cyto-small-phantoms"
    )
    handle = client.fit_classifier("datasets/d", ClassifierSettings("clip"))
    with pytest.raises(JobFailed) as caught:
        handle.wait()
    assert caught.value.code == "FAILED_PRECONDITION"
    assert caught.value.remedy == "use cyto-small-phantoms"
    assert caught.value.job_name == handle.name


def test_a_job_is_cancelled(toy: ToyServices, client: Client) -> None:
    toy.trainer.hold.clear()
    handle = client.fit_adapter("datasets/d")
    assert handle.cancel().state == "CANCELLED"
    with pytest.raises(JobFailed) as caught:
        handle.wait()
    assert caught.value.code == "CANCELLED"
