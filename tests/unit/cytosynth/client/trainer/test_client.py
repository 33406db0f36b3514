"""Datasets, adapters, classifiers and reports through the client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cytosynth.client import (
    ClassifierSettings,
    Client,
    CytosynthError,
    ReportArm,
    SamplerSettings,
    SplitSettings,
    SyntheticSettings,
)
from tests.support.servers.toy_services.server import ToyServices


def test_datasets_are_read_imported_and_deleted(client: Client, folder: Path) -> None:
    name = client.upload_dataset(folder, split=SplitSettings(shots=1)).name
    assert client.get_dataset(name).num_train == 2
    assert (
        client.import_dataset("s3://cells", split=SplitSettings(class_shots={"blast": 4})).num_test
        == 6
    )
    assert len(client.list_datasets()) == 2
    proof = client.delete_dataset(name)
    assert (proof.name, proof.num_objects, proof.digest) == (name, 5, "d1")
    with pytest.raises(CytosynthError) as caught:
        client.get_dataset(name)
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.remedy == "list datasets to see which exist"


def test_the_same_key_gives_the_same_job(client: Client) -> None:
    first = client.fit_adapter("datasets/d", idempotency_key="k")
    assert client.fit_adapter("datasets/d", idempotency_key="k").name == first.name
    assert client.fit_adapter("datasets/d").name != first.name


def test_the_synthetic_part_reaches_the_trainer(toy: ToyServices, client: Client) -> None:
    sampler = SamplerSettings("fast", guidance_stop=0.5)
    synthetic = SyntheticSettings("adapters/a", 50, seed=4, sampler=sampler, loss_weight=0.6)
    client.fit_classifier("datasets/d", ClassifierSettings("resnet18"), synthetic=synthetic)
    sent = toy.trainer.requests[0].synthetic
    assert (sent.adapter, sent.num_per_class, sent.sampler.preset) == ("adapters/a", 50, "fast")
    assert (sent.loss_weight, sent.sampler.guidance_stop) == (0.6, 0.5)
    client.fit_classifier("datasets/d", ClassifierSettings("resnet18"))
    assert not toy.trainer.requests[1].HasField("synthetic")


def test_jobs_are_listed_by_state(client: Client) -> None:
    client.fit_adapter("datasets/d").wait()
    client.fit_adapter("datasets/e")
    assert [job.name for job in client.list_jobs()] == ["jobs/j2", "jobs/j1"]
    assert [job.name for job in client.list_jobs("succeeded")] == ["jobs/j1"]
    with pytest.raises(CytosynthError, match="PENDING, RUNNING"):
        client.list_jobs("done")


def test_what_was_trained_is_read(client: Client) -> None:
    assert client.get_adapter("adapters/a").settings == {"rank": 16}
    classifier = client.list_classifiers()[0]
    assert classifier.synthetic == {"adapter": "adapters/a1", "num_per_class": 5}
    assert classifier.metrics == {"macro_f1": 0.75}


def test_a_report_is_downloaded_whole(client: Client, tmp_path: Path) -> None:
    arms = [ReportArm("clip", "real_only", "classifiers/c1")]
    name = client.create_report("datasets/d", arms, phase_seconds={"upload": 1.5}).wait().result
    paths = client.download_report(name, tmp_path / "report")
    assert [path.name for path in paths] == ["report.html", "report.json"]
    assert json.loads(paths[1].read_text())["seconds"] == {"upload": 1.5}
    assert paths[0].read_text() == "<html>Research use only</html>"
    with pytest.raises(CytosynthError, match="evil"):
        client.download_report("reports/evil", tmp_path / "report")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "create",
    [
        lambda client: client.create_study("datasets/d"),
        lambda client: client.import_dataset("s3://cells", split=SplitSettings(shots=1)),
        lambda client: client.fit_adapter("datasets/d"),
        lambda client: client.fit_classifier("datasets/d"),
        lambda client: client.create_report("datasets/d", []),
    ],
    ids=["create_study", "import_dataset", "fit_adapter", "fit_classifier", "create_report"],
)
def test_a_creation_whose_answer_was_lost_is_asked_for_again_with_its_key(
    toy: ToyServices, client: Client, create: Callable[[Client], object]
) -> None:
    toy.trainer.refuse_requests = 2
    create(client)
    create(client)
    assert len(toy.trainer.requests) == 2
    assert all(toy.trainer.keys) and len(set(toy.trainer.keys)) == 2, "each has a key of its own"


def test_reports_and_classifiers_are_listed_and_deleted(client: Client) -> None:
    [report] = client.list_reports()
    assert (report.name, report.kind, report.title) == ("reports/r1", "report", "Ward 3")
    assert client.delete_report("reports/r1").num_objects == 4
    assert client.delete_classifier("classifiers/c2").digest == "d3"
    with pytest.raises(CytosynthError, match="aliases/production points at it"):
        client.delete_classifier("classifiers/c1")


def test_only_so_many_jobs_as_wanted_are_listed(client: Client) -> None:
    for dataset in ("a", "b", "c"):
        client.fit_adapter(f"datasets/{dataset}")
    assert [job.name for job in client.list_jobs(limit=2)] == ["jobs/j3", "jobs/j2"]
    with pytest.raises(CytosynthError, match="limit: 1001 is not 0 to 1000"):
        client.list_jobs(limit=1001)
