"""Jobs over a real channel: cancelled, continued after a loss, not found."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.models import lora
from services.operations import drain_jobs
from tests.support.servers.local_serve import replica_processes
from tests.support.trainer import (
    FINAL,
    Running,
    first_step,
    refusal,
    runner_process,
    upload_requests,
    wait_for_step,
)

pytestmark = pytest.mark.timeout(1200)


def test_cancel_ends_a_job_within_a_step(running: Running, dataset: str) -> None:
    job = running.create_adapter(dataset, num_steps=100_000)
    wait_for_step(running, job.name, 2)
    asked = time.monotonic()
    running.stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=10)
    ended = running.watch(job.name)[-1]
    assert ended.state == job_pb2.JOB_STATE_CANCELLED and not ended.result
    assert time.monotonic() - asked < 10
    again = running.stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=10).job
    assert again.state == job_pb2.JOB_STATE_CANCELLED
    listed = running.stub.ListJobs(
        pb.ListJobsRequest(state=job_pb2.JOB_STATE_CANCELLED), timeout=10
    ).jobs
    assert job.name in {each.name for each in listed}


def test_a_killed_runner_continues_to_the_same_weights(running: Running, dataset: str) -> None:
    def weights(job: job_pb2.Job) -> bytes:
        id = job.result.split("/")[1]
        return running.store.read("local", "adapters", id, f"shared/{lora.WEIGHTS_FILE}")

    whole = running.watch(running.create_adapter(dataset, num_steps=40, seed=5).name)[-1]
    assert whole.state == job_pb2.JOB_STATE_SUCCEEDED, whole.error
    job = running.create_adapter(dataset, num_steps=40, seed=5)
    wait_for_step(running, job.name, 5)
    process = runner_process()
    process.send_signal(signal.SIGKILL)
    seen = running.watch(job.name)
    assert seen[-1].state == job_pb2.JOB_STATE_SUCCEEDED, seen[-1].error
    assert seen[-1].num_attempts == 2
    assert first_step(seen, attempt=2) >= 4, "it must continue from its checkpoint"
    assert weights(seen[-1]) == weights(whole)
    adapters = running.stub.ListAdapters(pb.ListAdaptersRequest(), timeout=10).adapters
    assert [each.name for each in adapters].count(seen[-1].result) == 1


def test_a_host_that_is_about_to_end_gives_its_job_back(
    running: Running, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running.create_adapter(dataset, num_steps=60, seed=15)
    wait_for_step(running, job.name, 5)
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", f"sqlite:///{running.root}/jobs.db")
    monkeypatch.setenv("CYTOSYNTH_DRAIN_FILE", str(running.root / "drain"))
    assert drain_jobs.main(["--this-host"]) == 0
    left = running.stub.GetJob(pb.GetJobRequest(name=job.name), timeout=10).job
    assert (left.state, left.num_attempts) == (job_pb2.JOB_STATE_PENDING, 1)
    runner_process().send_signal(signal.SIGKILL)  # the next one was started after the drain
    seen = running.watch(job.name)
    assert seen[-1].state == job_pb2.JOB_STATE_SUCCEEDED, seen[-1].error
    assert seen[-1].num_attempts == 2
    assert first_step(seen, attempt=2) >= left.progress.step, "no step may be done twice"


def test_a_killed_front_loses_no_job(running: Running, dataset: str) -> None:
    job = running.create_adapter(dataset, num_steps=40, seed=6)
    [front] = replica_processes("Trainer")
    front.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            found = running.stub.GetJob(pb.GetJobRequest(name=job.name), timeout=5).job
        except grpc.RpcError:
            time.sleep(0.5)
            continue
        if found.state in FINAL:
            break
        time.sleep(0.5)
    assert found.state == job_pb2.JOB_STATE_SUCCEEDED
    assert found.num_attempts == 1, "the runner must not notice that the front died"


def test_an_idle_runner_gives_its_memory_back_and_the_next_job_starts_one(
    running: Running, dataset: str
) -> None:
    running.watch(running.create_adapter(dataset, num_steps=1).name)
    first = runner_process()
    first.wait(timeout=120)
    ended = running.watch(running.create_adapter(dataset, num_steps=1, seed=9).name)[-1]
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED, ended.error
    assert runner_process().pid != first.pid


def test_unknown_jobs_and_reports_are_not_found(running: Running) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: running.stub.GetJob(pb.GetJobRequest(name="jobs/none"), timeout=10),
        lambda: running.stub.CancelJob(pb.CancelJobRequest(name="jobs/none"), timeout=10),
        lambda: list(running.stub.WatchJob(pb.WatchJobRequest(name="jobs/none"), timeout=10)),
        lambda: list(
            running.stub.DownloadReport(pb.DownloadReportRequest(name="reports/none"), timeout=10)
        ),
        lambda: running.stub.GetClassifier(
            pb.GetClassifierRequest(name="classifiers/none"), timeout=10
        ),
    ]
    for call in calls:
        code, message, _ = refusal(call)
        assert code == grpc.StatusCode.NOT_FOUND and "none" in message
    code, _, field = refusal(
        lambda: running.stub.GetJob(pb.GetJobRequest(name="a job"), timeout=10)
    )
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")


def test_a_job_that_succeeded_shows_all_its_steps(running: Running, dataset: str) -> None:
    ended = running.watch(running.create_adapter(dataset, num_steps=2, seed=21).name)[-1]
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED, ended.error
    assert 0 < ended.progress.step == ended.progress.total_steps


def test_what_a_running_job_needs_is_not_deleted(running: Running) -> None:
    name = running.upload(upload_requests(key="needed")).name
    job = running.create_adapter(name, num_steps=100_000)
    wait_for_step(running, job.name, 2)

    def delete() -> pb.DeletionProof:
        return running.stub.DeleteDataset(pb.DeleteDatasetRequest(name=name), timeout=10).proof

    code, message, _ = refusal(delete)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert f"{job.name} (fit_adapter, RUNNING) needs it" in message
    assert f"cytosynth cancel {job.name}" in message
    assert running.stub.GetDataset(pb.GetDatasetRequest(name=name), timeout=10).dataset.name == name
    running.stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=10)
    assert delete().num_objects == 11
    assert running.watch(job.name)[-1].state == job_pb2.JOB_STATE_CANCELLED
