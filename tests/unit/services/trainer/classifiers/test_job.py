"""A self-describing classifier that never learns from a test image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Cancelled, FailedPrecondition, InvalidArgument, NotFound
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers import job as fit_classifier
from tests.support import fakes
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    FakeGenerator,
    digest_of,
    job_context,
    serve_images,
    store_adapter,
    tiny_settings,
    upload_dataset,
)

QUICK = {"num_steps": 12, "batch_size": 12, "image_size": 32}


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    return tiny_settings(tmp_path)


@pytest.fixture
def store(settings: Any) -> ArtifactStore:
    return ArtifactStore(settings.store_uri)


@pytest.mark.parametrize("architecture", ["resnet18", "clip"])
def test_run_makes_a_classifier_that_tells_what_it_is(
    architecture: str, settings: Any, store: ArtifactStore
) -> None:
    dataset = upload_dataset(store, settings)
    phases = []
    context = job_context(store, settings, progress=lambda phase, *_: phases.append(phase))
    asked = dict(QUICK) if architecture == "resnet18" else QUICK | {"image_size": 32}
    spec = {"dataset": dataset, "settings": {"architecture": architecture, **asked}}
    classifier_id = fit_classifier.run(spec, context)
    assert classifier_id == "job-1"
    manifest = store.get_manifest(TENANT, "classifiers", classifier_id)
    body = manifest["body"]
    assert manifest["parents"] == [dataset]
    assert body["class_ids"] == list(CLASSES), "the class of one image is left out"
    assert body["center_crop"] == 0.9
    assert manifest["settings"]["num_steps"] == 12
    assert set(manifest["metrics"]) >= {"macro_f1", "balanced_accuracy", "top1", "macro_auc", "ece"}
    assert (manifest["base"] == "tiny-clip") == (architecture == "clip")
    answers = json.loads(store.read(TENANT, "classifiers", classifier_id, "test_predictions.json"))
    assert len(answers["labels"]) == 3 * 8
    trained = set(store.get_manifest(TENANT, "datasets", dataset.split("/")[1])["digests"])
    assert trained.isdisjoint(answers["digests"])
    assert "training classifier" in phases and "testing classifier" in phases
    assert fit_classifier.run(spec, context) == classifier_id, "a rerun finds what it made"


def test_resnet_learns_colours_from_six_images_a_class(settings: Any, store: ArtifactStore) -> None:
    spec = {
        "dataset": upload_dataset(store, settings),
        # Of five seeds, the worst has 0.958, in float32 and bfloat16; 40 steps are too few.
        "settings": QUICK | {"num_steps": 80, "batch_size": 18},
    }
    classifier_id = fit_classifier.run(spec, job_context(store, settings))
    metrics = store.get_manifest(TENANT, "classifiers", classifier_id)["metrics"]
    assert metrics["macro_f1"] > 0.9


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    fake = FakeGenerator()
    serve_images(monkeypatch, fake)
    return fake


def test_run_with_synthetic_images_keeps_them_and_names_them(
    settings: Any, store: ArtifactStore, generator: FakeGenerator
) -> None:
    dataset = upload_dataset(store, settings)
    adapter = store_adapter(store, [])
    synthetic = {"adapter": adapter, "num_per_class": 20, "seed": 3, "loss_weight": 0.6}
    spec = {"dataset": dataset, "settings": QUICK, "synthetic": synthetic}
    classifier_id = fit_classifier.run(spec, job_context(store, settings))
    manifest = store.get_manifest(TENANT, "classifiers", classifier_id)
    image_set = manifest["body"]["image_set"]
    assert manifest["parents"] == [dataset, adapter, image_set]
    assert manifest["body"]["synthetic"]["loss_weight"] == 0.6
    assert manifest["body"]["synthetic"]["enough_real"] == 8
    kept = store.get_manifest(TENANT, "imageSets", image_set.split("/")[1])
    assert kept["body"]["num_images"] == 60 == generator.num_drawn
    fit_classifier.run(spec, job_context(store, settings, job_id="job-2"))
    assert generator.num_drawn == 60, "the second classifier uses the same image set"


def test_cancel_leaves_no_classifier(settings: Any, store: ArtifactStore) -> None:
    def cancel(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 2:
            raise Cancelled

    spec = {"dataset": upload_dataset(store, settings), "settings": QUICK}
    with pytest.raises(Cancelled):
        fit_classifier.run(spec, job_context(store, settings, progress=cancel))
    assert not store.exists(TENANT, "classifiers", "job-1")


@pytest.mark.parametrize("guilty", ["base", "clip", "adapter"])
def test_model_that_has_seen_a_test_image_is_refused(
    guilty: str, settings: Any, store: ArtifactStore
) -> None:
    dataset = upload_dataset(store, settings)
    manifest = store.get_manifest(TENANT, "datasets", dataset.split("/")[1])
    seen = [manifest["body"]["classes"]["monocyte"]["test"][0]]
    assert seen[0] in {digest_of("monocyte", n) for n in range(14)}
    fakes.write_tiny_clip(settings.models_dir, digests=seen if guilty == "clip" else [])
    fakes.write_tiny_base(settings.models_dir, digests=seen if guilty == "base" else [])
    adapter = store_adapter(store, seen if guilty == "adapter" else [])
    spec = {
        "dataset": dataset,
        "settings": {"architecture": "clip"},
        "synthetic": {"adapter": adapter, "num_per_class": 4},
    }
    subject = {"base": "base tiny", "clip": "CLIP base tiny-clip", "adapter": adapter}[guilty]
    with pytest.raises(FailedPrecondition, match=r"1 of the 24 locked test images") as caught:
        fit_classifier.validate(spec, store, TENANT, settings)
    assert caught.value.subject == subject and caught.value.remedy


def test_a_near_duplicate_of_a_test_image_counts_as_seen(
    settings: Any, store: ArtifactStore
) -> None:
    dataset = upload_dataset(store, settings)
    manifest = store.get_manifest(TENANT, "datasets", dataset.split("/")[1])
    body = manifest["body"]
    phash = int(body["images"][body["classes"]["monocyte"]["test"][0]]["phash"], 16)
    near, far = (f"{phash ^ mask:016x}" for mask in (0b111111, 2**64 - 1))
    spec = {"dataset": dataset, "settings": {"architecture": "clip"}}
    fakes.write_tiny_clip(settings.models_dir, phashes=[far])
    fit_classifier.validate(spec, store, TENANT, settings)
    fakes.write_tiny_clip(settings.models_dir, phashes=[far, near])
    with pytest.raises(
        FailedPrecondition, match=r"near-duplicates of \d+ of the 24 locked"
    ) as caught:
        fit_classifier.validate(spec, store, TENANT, settings)
    assert caught.value.subject == "CLIP base tiny-clip" and caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"settings": {"preset": "huge"}}, "settings.preset"),
        ({"settings": {"architecture": "vgg"}}, "settings.architecture"),
        ({"settings": {"clip_base": "tiny-clip"}}, "settings.clip_base"),
        ({"settings": {"architecture": "clip", "clip_base": "nope"}}, "settings.clip_base"),
        ({"settings": {"resnet_base": "nope"}}, "settings.resnet_base"),
        ({"settings": {"architecture": "clip", "resnet_base": "r"}}, "settings.resnet_base"),
        ({"settings": {"num_steps": 0}}, "settings.num_steps"),
        ({"settings": {"batch_size": 100_000}}, "settings.batch_size"),
        ({"settings": {"learning_rate": float("nan")}}, "settings.learning_rate"),
        ({"settings": {"learning_rate": 0.0}}, "settings.learning_rate"),
        ({"settings": {"weight_decay": -1.0}}, "settings.weight_decay"),
        ({"settings": {"image_size": 16}}, "settings.image_size"),
        ({"settings": {"seed": -1}}, "settings.seed"),
        ({"synthetic": {"adapter": "adapters/adapter-1", "num_per_class": 0}},
         "synthetic.num_per_class"),
        ({"synthetic": {"adapter": "adapters/adapter-1", "num_per_class": 10**9}},
         "synthetic.num_per_class"),
        ({"synthetic": {"adapter": "adapters/adapter-1", "num_per_class": 4, "loss_weight": 1.5}},
         "synthetic.loss_weight"),
        ({"synthetic": {"adapter": "adapters/adapter-1", "num_per_class": 4,
                        "sampler": {"preset": "ultra"}}}, "synthetic.sampler.preset"),
        ({"synthetic": {"adapter": "wrong", "num_per_class": 4}}, "synthetic.adapter"),
        ({"dataset": "classifiers/x"}, "dataset"),
    ],
)  # fmt: skip
def test_bad_request_is_refused_by_field(
    changes: dict[str, Any], field: str, settings: Any, store: ArtifactStore
) -> None:
    store_adapter(store, [])
    spec = {"dataset": upload_dataset(store, settings), **changes}
    with pytest.raises(InvalidArgument) as caught:
        fit_classifier.validate(spec, store, TENANT, settings)
    assert caught.value.field == field


def test_unknown_dataset_or_adapter_is_not_found(settings: Any, store: ArtifactStore) -> None:
    with pytest.raises(NotFound, match="datasets/none"):
        fit_classifier.validate({"dataset": "datasets/none"}, store, TENANT, settings)
    spec = {
        "dataset": upload_dataset(store, settings),
        "synthetic": {"adapter": "adapters/none", "num_per_class": 4},
    }
    with pytest.raises(NotFound, match="adapters/none"):
        fit_classifier.validate(spec, store, TENANT, settings)
