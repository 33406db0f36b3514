"""Listing and deletion through the trainer's handlers, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.database.jobs import JobDatabase
from services.common.database.migrate import migrate
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers import job as fit_classifier
from services.trainer.service import TrainerService
from tests.support.few_shot import (
    TENANT,
    FakeGenerator,
    job_context,
    serve_images,
    store_adapter,
    store_random_classifier,
    tiny_settings,
    upload_dataset,
)
from tests.support.handler_context import HandlerContext


@pytest.fixture
def trainer(tmp_path: Path) -> SimpleNamespace:
    settings = tiny_settings(tmp_path)
    migrate(settings.database_url)
    store, database = ArtifactStore(settings.store_uri), JobDatabase(settings.database_url)
    service = TrainerService(settings, store, database, lambda: None)

    def call(method: str, request: Any) -> tuple[Any, HandlerContext]:
        context = HandlerContext(TENANT)
        return asyncio.run(getattr(service, method)(request, context)), context

    return SimpleNamespace(settings=settings, store=store, database=database, call=call)


def test_a_classifier_trained_on_synthetic_cells_is_listed_and_read(
    trainer: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_images(monkeypatch, FakeGenerator())
    dataset = upload_dataset(trainer.store, trainer.settings)
    spec = {
        "dataset": dataset,
        "settings": {"num_steps": 2, "batch_size": 6, "image_size": 32},
        "synthetic": {
            "adapter": store_adapter(trainer.store, []),
            "num_per_class": 4,
            "seed": 3,
            "sampler": {"num_steps": 4},
        },
    }
    fit_classifier.run(spec, job_context(trainer.store, trainer.settings))
    [shown] = trainer.call("ListClassifiers", pb.ListClassifiersRequest())[0].classifiers
    assert shown.synthetic.num_per_class == 4
    assert shown.synthetic.sampler.num_steps == 4
    assert 0 < shown.synthetic.loss_weight <= 1
    assert (shown.settings.num_steps, shown.settings.batch_size) == (2, 6)
    again, _ = trainer.call("GetClassifier", pb.GetClassifierRequest(name=shown.name))
    assert again.classifier == shown


def test_a_manifest_of_another_version_is_listed(trainer: SimpleNamespace) -> None:
    draft = trainer.store.new_draft(TENANT, "classifiers", "newer")
    draft.write("model.safetensors", b"weights")
    body = {
        "dataset": "datasets/d",
        "class_ids": ["blast"],
        "image_set": "imageSets/s",
        "synthetic": {"adapter": "adapters/a", "weather": "fair", "sampler": {"spin": 1}},
    }
    draft.commit(
        {"parents": [], "base": "", "digests": [], "seed": 0, "body": body,
         "settings": {"num_steps": 3, "spin": "up"}, "metrics": {"macro_f1": 0.5, "kappa": None}}
    )  # fmt: skip
    [shown] = trainer.call("ListClassifiers", pb.ListClassifiersRequest())[0].classifiers
    assert (shown.synthetic.adapter, shown.settings.num_steps) == ("adapters/a", 3)
    assert dict(shown.metrics) == {"macro_f1": 0.5}


def test_a_classifier_behind_an_alias_is_not_deleted(trainer: SimpleNamespace) -> None:
    name = store_random_classifier(trainer.store, "c1")
    trainer.database.aliases.set(TENANT, "production", "c1")
    request = pb.DeleteClassifierRequest(name=name)
    _, context = trainer.call("DeleteClassifier", request)
    assert context.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "aliases/production points at it" in context.details
    assert "`cytosynth alias delete production`" in context.details
    assert trainer.store.exists(TENANT, "classifiers", "c1")
    trainer.database.aliases.delete(TENANT, "production")
    proof = trainer.call("DeleteClassifier", request)[0].proof
    assert (proof.name, proof.num_objects) == (name, 2)
    assert not trainer.store.exists(TENANT, "classifiers", "c1")
    assert [each.name for each in trainer.database.deletions.list()] == [name]


def test_reports_are_listed_and_deleted(trainer: SimpleNamespace) -> None:
    for id, body, title in (
        ("r1", {"dataset": "datasets/d", "num_synthetic": 0}, "Ward 3"),
        ("r2", {"dataset": "datasets/d", "draws": []}, ""),
    ):
        draft = trainer.store.new_draft(TENANT, "reports", id)
        draft.write("report.json", b"{}")
        settings = {"title": title} if title else {}
        draft.commit({"parents": [], "settings": settings, "metrics": {}, "body": body})
    reports = trainer.call("ListReports", pb.ListReportsRequest())[0].reports
    assert [(each.name, each.kind, each.title) for each in reports] == [
        ("reports/r2", "study", ""),
        ("reports/r1", "report", "Ward 3"),
    ]
    assert {each.dataset for each in reports} == {"datasets/d"}
    proof = trainer.call("DeleteReport", pb.DeleteReportRequest(name="reports/r1"))[0].proof
    assert proof.num_objects == 2
    assert len(trainer.call("ListReports", pb.ListReportsRequest())[0].reports) == 1
    _, context = trainer.call("DeleteReport", pb.DeleteReportRequest(name="reports/r1"))
    assert context.code == grpc.StatusCode.NOT_FOUND


def test_as_many_jobs_as_wanted_are_listed(trainer: SimpleNamespace) -> None:
    for number in range(3):
        trainer.database.create(TENANT, "fit_adapter", {"number": number}, f"k{number}")
    assert len(trainer.call("ListJobs", pb.ListJobsRequest(page_size=2))[0].jobs) == 2
    assert len(trainer.call("ListJobs", pb.ListJobsRequest())[0].jobs) == 3
    _, context = trainer.call("ListJobs", pb.ListJobsRequest(page_size=-1))
    assert context.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "page_size" in context.details
