"""A report, the same for machines and people, that fetches nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.images.codec import encode_image
from services.common.images.near_duplicates import training_hashes
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers.image_sets import KeptRounds, SyntheticPlan
from services.trainer.datasets.reading import digests_of_split
from services.trainer.evaluation.answers import AnsweredTest
from services.trainer.evaluation.metrics import evaluate
from services.trainer.evaluation.predictions import Predictions
from services.trainer.reports import job as report
from services.trainer.reports.charts import class_confusion_svg, recall_svg
from services.trainer.reports.page import duration, patients_unknown
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    FakeGenerator,
    cell_image,
    job_context,
    settings_for,
    upload_dataset,
)


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    return settings_for(tmp_path)


@pytest.fixture
def store(settings: Any) -> ArtifactStore:
    return ArtifactStore(settings.store_uri)


def store_image_set(store: ArtifactStore, copied: bytes) -> str:
    """Twelve images, of which the first of each class is ``copied``."""
    plan = SyntheticPlan("adapters/adapter-1", "a" * 64, CLASSES, 4, 0)
    images = list(FakeGenerator()(dict.fromkeys(CLASSES, 4), 9))
    images[0] = replace(images[0], data=copied)
    kept = KeptRounds(plan, store, TENANT)
    kept.write(0, images, images[0].manifest)
    kept.commit()
    return f"imageSets/{plan.image_set_id}"


def store_classifier(
    store: ArtifactStore,
    dataset: str,
    id: str,
    skill: float,
    seed: int,
    image_set: str = "",
    with_answers: bool = False,
) -> str:
    """A classifier of which only the answers are there."""
    manifest = store.get_manifest(TENANT, "datasets", dataset.split("/")[1])
    by_class = digests_of_split(manifest, "test")
    digests = [d for c in CLASSES for d in by_class[c]]
    labels = np.repeat(np.arange(3), [len(by_class[c]) for c in CLASSES])
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), 3)) + skill * np.eye(3)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = Predictions(CLASSES, tuple(digests), labels, shares)
    draft = store.new_draft(TENANT, "classifiers", id)
    draft.write("test_predictions.json", json.dumps(predictions.to_dict()).encode())
    if with_answers:
        answered = AnsweredTest(
            predictions, 0.9, shares > 0.2, shares.max(axis=1) < 0.5, np.zeros(len(labels))
        )
        draft.write("test_answers.json", json.dumps(answered.to_dict()).encode())
    synthetic = {
        "adapter": "adapters/adapter-1",
        "num_per_class": 4,
        "loss_weight": 0.5,
        "enough_real": 8,
    }
    draft.commit({
        "parents": [dataset], "base": "", "base_revision": "", "seed": seed, "code_version": "1",
        "settings": {"architecture": "resnet18", "clip_base": "", "num_steps": 3},
        "metrics": evaluate(predictions).metrics, "digests": [],
        "body": {
            "dataset": dataset, "image_set": image_set,
            "synthetic": synthetic if image_set else None,
            "training": {"num_steps": 3, "batch_size": 8, "synthetic_batch_size": 8 * bool(
                image_set), "seconds": 2.5},
        },
    })  # fmt: skip
    return draft.name


@pytest.fixture
def spec(store: ArtifactStore, settings: Any) -> dict[str, Any]:
    dataset = upload_dataset(store, settings)
    manifest = store.get_manifest(TENANT, "datasets", dataset.split("/")[1])
    trained = manifest["body"]["classes"][CLASSES[0]]["train"][0]
    copied = store.read(TENANT, "datasets", dataset.split("/")[1], f"images/{trained}")
    from services.common.images.codec import center_square, decode_image

    array = center_square(decode_image(copied, "image"), 0.9, 64)
    image_set = store_image_set(store, encode_image(np.ascontiguousarray(np.rot90(array))))
    arms = []
    for seed in (0, 1):
        for arm, skill in (("real_only", 0.5), ("real_plus_synthetic", 4.0)):
            name = store_classifier(
                store, dataset, f"{arm.replace('_', '-')}-{seed}", skill, seed,
                image_set if skill > 1 else "",
            )  # fmt: skip
            arms.append({"model": "resnet18", "arm": arm, "classifier": name})
    return {
        "dataset": dataset,
        "arms": arms,
        "title": "Discs <script>alert(1)</script>",
        "phase_seconds": {"adapter": 12.5, "synthesis & more": 130.0},
    }


@pytest.fixture
def written(store: ArtifactStore, settings: Any, spec: dict[str, Any]) -> dict[str, str]:
    report_id = report.run(spec, job_context(store, settings))
    files = store.get_manifest(TENANT, "reports", report_id)["files"]
    return {path: store.read(TENANT, "reports", report_id, path).decode() for path in files}


def test_report_json_has_the_agreed_shape(written: dict[str, str], spec: dict[str, Any]) -> None:
    content = json.loads(written["report.json"])
    arms = content["arms"]["resnet18"]
    assert set(arms) == {"real_only", "real_plus_synthetic"}
    assert 0 <= arms["real_only"]["macro_f1"] < arms["real_plus_synthetic"]["macro_f1"] <= 1
    assert content["num_synthetic"] == 12
    assert content["seconds"] == spec["phase_seconds"]
    assert content["notice"] == "Research use only — not a medical device"
    figures = arms["real_plus_synthetic"]
    assert figures["num_runs"] == 2 and [run["seed"] for run in figures["per_run"]] == [0, 1]
    low, high = figures["intervals"]["macro_f1"]
    assert low <= figures["macro_f1"] <= high
    assert set(figures["per_class_recall"]) == set(CLASSES)
    assert np.array(figures["confusion"]).sum() == 2 * 24
    difference = content["paired_differences"]["resnet18"]["real_plus_synthetic_minus_real_only"]
    assert difference["macro_f1"]["interval"][0] > 0
    assert difference["macro_f1"]["difference"] == pytest.approx(
        arms["real_plus_synthetic"]["macro_f1"] - arms["real_only"]["macro_f1"]
    )


def test_report_says_what_was_left_out_and_on_what_it_was_tested(
    written: dict[str, str], spec: dict[str, Any]
) -> None:
    dataset = json.loads(written["report.json"])["dataset"]
    assert dataset["name"] == spec["dataset"] and len(dataset["split_digest"]) == 64
    assert "one image" in dataset["left_out"]["basophil"]
    assert dataset["classes"]["monocyte"] == {"num_train": 6, "num_test": 8}
    digests = json.loads(written["report.json"])["test_digests"]
    assert {class_id: len(listed) for class_id, listed in digests.items()} == dict.fromkeys(
        CLASSES, 8
    )
    assert "one image" in written["report.html"]
    assert "No image names its patient" in written["report.html"]


@pytest.mark.parametrize(
    ("unknown", "said"), [(0, ""), (3, "3 of 8 name no patient"), (8, "No image names its patient")]
)
def test_unknown_patients_are_said(unknown: int, said: str) -> None:
    text = patients_unknown({"num_images": 8, "num_without_patient": unknown})
    assert text.startswith(said) and bool(text) == bool(unknown)


def test_near_duplicates_are_found_in_any_orientation(written: dict[str, str]) -> None:
    near = json.loads(written["report.json"])["near_copies"]
    assert near["num_searched"] == 12
    assert near["num_near_copies"] >= 1


def test_page_is_one_file_that_fetches_nothing_and_escapes_what_people_wrote(
    written: dict[str, str],
) -> None:
    page = written["report.html"]
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert "http" not in re.sub(r'http-equiv="', "", page)
    assert page.count("data:image/png;base64,") == 6, "real and synthetic cells of each class"
    assert page.count("Research use only — not a medical device") == 2
    assert page.count('class="matrix"') == 2 and page.count('class="bars"') == 1
    assert "synthesis &amp; more" in page and "2 min 10 s" in page
    assert 'name="viewport"' in page


def test_table_has_a_row_per_figure(written: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(written["metrics.csv"])))
    assert len(rows) == 2 * (5 + 3)
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)


def test_figures_are_well_formed_and_name_every_class() -> None:
    matrix = class_confusion_svg(["a<b", "c"], [[3, 1], [0, 2]])
    texts = [node.text for node in ElementTree.fromstring(matrix).iter("text")]
    assert texts.count("a<b") == 2 and "3" in texts
    figures = {
        "per_class_recall": {"c": 0.5, "d": 1.0},
        "per_class_recall_intervals": {"c": (0.2, 0.8), "d": (0.9, 1.0)},
    }
    bars = ElementTree.fromstring(recall_svg(["c", "d"], {"real_only": figures}, {"real_only": 0}))
    half, whole = (float(bar.get("width")) for bar in bars.iter("rect"))
    assert whole > 300 and half == whole / 2
    assert {"c", "d", "100 %"} <= {node.text for node in bars.iter("text")}
    assert duration(75) == "75 s" and duration(600.4) == "10 min 00 s"


def test_hashes_cover_eight_orientations() -> None:
    assert training_hashes(np.stack([cell_image("monocyte", 1)])).shape == (8,)


def test_report_without_baseline_or_synthetic_images_is_still_written(
    store: ArtifactStore, settings: Any, spec: dict[str, Any]
) -> None:
    only = {"dataset": spec["dataset"], "arms": [{**spec["arms"][0], "arm": "mine"}]}
    report_id = report.run(only, job_context(store, settings, job_id="job-2"))
    content = json.loads(store.read(TENANT, "reports", report_id, "report.json"))
    assert content["paired_differences"] == {} and content["num_synthetic"] == 0
    assert content["title"] == "Discs"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"arms": []}, "arms"),
        ({"arms": [{"model": "", "arm": "a", "classifier": "classifiers/x"}]}, "arms[0].model"),
        ({"arms": [{"model": "m", "arm": "a", "classifier": "x"}]}, "arms[0].classifier"),
        ({"title": "x" * 201}, "title"),
        ({"phase_seconds": {"p": float("nan")}}, "phase_seconds['p']"),
    ],
)
def test_bad_request_is_refused_by_field(
    changes: dict[str, Any], field: str, store: ArtifactStore, settings: Any, spec: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        report.validate({**spec, **changes}, store, TENANT, settings)
    assert caught.value.field == field


def test_classifiers_of_another_dataset_are_not_compared(
    store: ArtifactStore, settings: Any, spec: dict[str, Any]
) -> None:
    other = upload_dataset(store, settings, seed=5)
    with pytest.raises(FailedPrecondition, match="one dataset"):
        report.validate({**spec, "dataset": other}, store, TENANT, settings)
    missing = [{"model": "m", "arm": "a", "classifier": "classifiers/none"}]
    with pytest.raises(NotFound):
        report.validate({**spec, "arms": missing}, store, TENANT, settings)


def test_answers_stand_on_the_page_where_every_run_of_an_arm_has_them(
    store: ArtifactStore, settings: Any, spec: dict[str, Any]
) -> None:
    for seed in (0, 1):
        name = store_classifier(
            store, spec["dataset"], f"sure-{seed}", 4.0, seed, with_answers=True
        )
        spec["arms"].append({"model": "resnet18", "arm": "calibrated", "classifier": name})
    context = job_context(store, settings)
    report_id = report.run(spec, context)
    content = json.loads(store.read(TENANT, "reports", report_id, "report.json"))
    arms = content["arms"]["resnet18"]
    assert arms["real_only"]["answers"] is None
    found = arms["calibrated"]["answers"]
    assert found["ece_after"] == found["ece_before"], "these answers are the softmax itself"
    assert found["ece_before"]["value"] == pytest.approx(arms["calibrated"]["ece"])
    assert set(found["coverage_per_class"]) == set(CLASSES)
    page = store.read(TENANT, "reports", report_id, "report.html").decode()
    assert "How far answers can be relied on" in page and "Classes in a set" in page
    lowest = f"{100 * min(found['coverage_per_class'].values()):.1f}<small>of 90.0"
    assert lowest in page


def test_page_of_classifiers_without_answers_is_silent_about_them(written: dict[str, str]) -> None:
    assert "How far answers can be relied on" not in written["report.html"]
