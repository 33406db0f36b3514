"""Adapter jobs over a real channel: trained, shown, refused."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.models import lora
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from tests.support import fakes
from tests.support.trainer import (
    CLASSES,
    Running,
    refusal,
)

pytestmark = pytest.mark.timeout(1200)


def test_an_adapter_is_trained_watched_and_shown(running: Running, dataset: str) -> None:
    job = running.create_adapter(dataset, "an adapter", num_steps=12)
    assert job.kind == "fit_adapter" and job.name.startswith("jobs/")
    seen = running.watch(job.name)
    assert seen[-1].state == job_pb2.JOB_STATE_SUCCEEDED, seen[-1].error
    assert job_pb2.JOB_STATE_RUNNING in {each.state for each in seen}
    training = [each.progress for each in seen if each.progress.phase == "training adapter"]
    assert training[-1].total_steps == 12 and training[-1].metrics["loss"] > 0
    assert seen[-1].progress.phase == "auditing the adapter"
    name = seen[-1].result
    adapter = running.stub.GetAdapter(pb.GetAdapterRequest(name=name), timeout=10).adapter
    assert (adapter.base, adapter.dataset) == ("tiny", dataset)
    assert list(adapter.class_ids) == list(CLASSES)
    assert 0 <= adapter.metrics["membership_auc"] <= 1
    assert (adapter.settings.rank, adapter.settings.num_steps) == (2, 12)
    assert adapter.settings.preset == "cpu" and adapter.settings.learning_rate > 0
    assert len(adapter.manifest_digest) == 64 and adapter.metrics["num_images"] == 6

    weights = running.store.read(
        "local", "adapters", name.split("/")[1], f"shared/{lora.WEIGHTS_FILE}"
    )
    pipeline = load_pipeline(resolve_base("tiny", running.root / "models"))
    fakes.load_lora(pipeline, weights)
    assert lora.lora_parameters(pipeline)
    again = running.create_adapter(dataset, "an adapter", num_steps=12)
    assert (again.name, again.state) == (job.name, job_pb2.JOB_STATE_SUCCEEDED)
    assert not list((running.root / "store/tenants/local/jobs").glob("*/manifest.json"))

    proof = running.stub.DeleteAdapter(pb.DeleteAdapterRequest(name=name), timeout=10).proof
    assert proof.num_objects == 3, "weights, hashes of training images, manifest"
    code, message, _ = refusal(
        lambda: running.stub.GetAdapter(pb.GetAdapterRequest(name=name), timeout=10)
    )
    assert code == grpc.StatusCode.NOT_FOUND and name in message


def test_a_key_used_for_another_request_is_refused(running: Running, dataset: str) -> None:
    first = running.create_adapter(dataset, "same key", num_steps=2)
    code, _, _ = refusal(lambda: running.create_adapter(dataset, "same key", num_steps=3))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    running.watch(first.name)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"rank": 0}, grpc.StatusCode.INVALID_ARGUMENT, "settings.rank"),
        ({"rank": 1000}, grpc.StatusCode.INVALID_ARGUMENT, "settings.rank"),
        ({"alpha": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "settings.alpha"),
        ({"num_steps": -5}, grpc.StatusCode.INVALID_ARGUMENT, "settings.num_steps"),
        ({"num_steps": 10**9}, grpc.StatusCode.INVALID_ARGUMENT, "settings.num_steps"),
        ({"batch_size": 0}, grpc.StatusCode.INVALID_ARGUMENT, "settings.batch_size"),
        (
            {"learning_rate": float("inf")},
            grpc.StatusCode.INVALID_ARGUMENT,
            "settings.learning_rate",
        ),
        ({"seed": -1}, grpc.StatusCode.INVALID_ARGUMENT, "settings.seed"),
        ({"preset": "turbo"}, grpc.StatusCode.INVALID_ARGUMENT, "settings.preset"),
        ({"base": "no-such-base"}, grpc.StatusCode.INVALID_ARGUMENT, "base"),
        ({"base": "../../etc"}, grpc.StatusCode.INVALID_ARGUMENT, "base"),
        ({"dataset": "datasets/nothing"}, grpc.StatusCode.NOT_FOUND, ""),
        ({"dataset": "adapters/x"}, grpc.StatusCode.INVALID_ARGUMENT, "dataset"),
        ({"dataset": ""}, grpc.StatusCode.INVALID_ARGUMENT, "dataset"),
        ({"key": "k" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "idempotency_key"),
    ],
)
def test_a_bad_request_is_refused_before_there_is_a_job(
    running: Running, dataset: str, change: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    def count() -> int:
        return len(running.stub.ListJobs(pb.ListJobsRequest(), timeout=10).jobs)

    before = count()
    values = {"dataset": dataset, **change}
    found, message, named = refusal(lambda: running.create_adapter(**values))
    assert (found, named) == (code, field), message
    assert count() == before


def test_a_base_that_saw_test_images_is_refused(running: Running, dataset: str) -> None:
    manifest = running.store.get_manifest("local", "datasets", dataset.split("/")[1])
    locked = manifest["body"]["classes"]["basophil"]["test"]
    fakes.write_tiny_base(running.root / "models", "informed", digests=locked)
    code, message, _ = refusal(lambda: running.create_adapter(dataset, base="informed"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "2 of the 4 locked test images" in message and "phantoms" in message
