"""Studies over a real channel."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from tests.support import fakes
from tests.support.trainer import (
    Running,
    refusal,
)

pytestmark = pytest.mark.timeout(1200)


def test_a_study_is_a_job_whose_result_is_a_report(running: Running, dataset: str) -> None:
    fakes.write_tiny_clip(running.root / "models")
    settings: dict[str, Any] = {"models": ["resnet18"], "arms": ["real_only"], "shots": 2}
    settings |= {"num_draws": 2, "num_steps": 2, "num_per_class": [1]}
    request = pb.CreateStudyRequest(
        dataset=dataset, settings=pb.StudySettings(**settings), idempotency_key="a study"
    )
    job = running.stub.CreateStudy(request, timeout=30).job
    assert running.stub.CreateStudy(request, timeout=30).job.name == job.name
    states = running.watch(job.name)
    assert states[-1].state == job_pb2.JOB_STATE_SUCCEEDED, states[-1].error.message
    assert any("draw 2 of 2: resnet18, real_only" in each.progress.phase for each in states)
    name = states[-1].result
    files: dict[str, bytes] = {}
    for part in running.stub.DownloadReport(pb.DownloadReportRequest(name=name), timeout=30):
        files[part.file_name] = files.get(part.file_name, b"") + part.chunk
    assert set(files) == {"report.json", "report.html", "metrics.csv"}
    report = json.loads(files["report.json"])
    assert [draw["images_of"] for draw in report["draws"]] == [dataset] * 2
    assert report["arms"]["resnet18"]["real_only"]["num_draws"] == 2
    assert not list((running.root / "store/tenants/local/jobs").iterdir()), "no work is left"

    request.settings.num_per_class[:] = [5, 3]
    request.idempotency_key = "another"
    code, _, field = refusal(lambda: running.stub.CreateStudy(request, timeout=30))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "settings.num_per_class")


def test_a_study_asked_again_is_the_same_job(running: Running, dataset: str) -> None:
    fakes.write_tiny_clip(running.root / "models")
    settings: dict[str, Any] = {"models": ["resnet18"], "arms": ["real_only"], "shots": 2}
    settings |= {"num_draws": 2, "num_steps": 100_000, "num_per_class": [1]}

    def ask(**changes: Any) -> job_pb2.Job:
        request = pb.CreateStudyRequest(
            dataset=dataset,
            settings=pb.StudySettings(**{**settings, **changes}),
            idempotency_key="a study asked again",
        )
        return running.stub.CreateStudy(request, timeout=30).job

    job = ask()
    assert ask().name == job.name
    code, message, _ = refusal(lambda: ask(num_steps=3))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "idempotency_key" in message
    running.stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=10)
    running.watch(job.name)
    again = ask()
    assert (again.name, again.state) == (job.name, job_pb2.JOB_STATE_CANCELLED)
