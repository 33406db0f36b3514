"""The job fits answers on held-out images and leaves the classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.answers.storage import ANSWERS_FILE, load_answer_model, support_of
from services.common.errors import Cancelled, InvalidArgument
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers import job as fit_classifier
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    MemoryCheckpoints,
    job_context,
    tiny_settings,
    upload_dataset,
)

STEPS = 8
QUICK = {"num_steps": STEPS, "batch_size": 9, "image_size": 32}


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    return tiny_settings(tmp_path)


@pytest.fixture
def store(settings: Any) -> ArtifactStore:
    return ArtifactStore(settings.store_uri)


@pytest.fixture
def dataset(store: ArtifactStore, settings: Any) -> str:
    return upload_dataset(store, settings)


def spec_of(dataset: str, **settings: Any) -> dict[str, Any]:
    return {"dataset": dataset, "settings": QUICK | settings}


def read(store: ArtifactStore, job_id: str, path: str) -> bytes:
    return store.read(TENANT, "classifiers", job_id, path)


def body_of(store: ArtifactStore, job_id: str) -> dict[str, Any]:
    body: dict[str, Any] = store.get_manifest(TENANT, "classifiers", job_id)["body"]
    return body


def test_answers_are_fitted_and_the_classifier_is_the_same_to_the_bit(
    dataset: str, store: ArtifactStore, settings: Any
) -> None:
    fit_classifier.run(spec_of(dataset), job_context(store, settings, job_id="with"))
    off = spec_of(dataset, num_calibration_folds=0)
    fit_classifier.run(off, job_context(store, settings, job_id="without"))
    for path in ("model.safetensors", "test_predictions.json", "config.json"):
        assert read(store, "with", path) == read(store, "without", path), path

    with_answers, without = (
        store.get_manifest(TENANT, "classifiers", each) for each in ("with", "without")
    )
    for name, value in without["metrics"].items():
        assert with_answers["metrics"][name] == value, name
    assert with_answers["settings"]["num_calibration_folds"] == 3

    support = support_of(with_answers["body"])
    assert support.calibrated and support.conformal and support.out_of_distribution
    assert support.training_priors == pytest.approx(dict.fromkeys(CLASSES, 1 / 3))
    assert support_of(without["body"]).reason == "the request asked for no calibration folds"
    assert not support_of(without["body"]).calibrated

    model = load_answer_model(with_answers["body"], lambda path: read(store, "with", path))
    assert model.conformal is not None
    assert [len(scores) for scores in model.conformal.scores] == [6, 6, 6], "each is held out once"


def test_evaluation_tells_what_calibration_brought(
    dataset: str, store: ArtifactStore, settings: Any
) -> None:
    fit_classifier.run(spec_of(dataset), job_context(store, settings))
    figures = json.loads(read(store, "job-1", "evaluation.json"))["answers"]
    metrics = store.get_manifest(TENANT, "classifiers", "job-1")["metrics"]
    assert figures["ece_before"]["value"] == pytest.approx(metrics["ece"])
    for name in ("ece_before", "ece_after", "mean_set_size", "macro_f1", "macro_f1_kept"):
        low, high = figures[name]["interval"]
        assert low <= high and figures[name]["value"] >= 0, name
    assert set(figures["coverage_per_class"]) == set(CLASSES)
    assert metrics["ece_calibrated"] == figures["ece_after"]["value"]
    assert metrics["lowest_coverage"] == min(figures["coverage_per_class"].values())
    answers = json.loads(read(store, "job-1", "test_answers.json"))
    assert (
        answers["digests"] == json.loads(read(store, "job-1", "test_predictions.json"))["digests"]
    )
    assert len(answers["prediction_sets"]) == len(answers["needs_review"]) == 3 * 8


def test_class_that_cannot_be_held_out_leaves_calibration_off_with_the_reason(
    dataset: str, store: ArtifactStore, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.trainer.classifiers import answers

    def all_one_patient(_: Any, digests: tuple[str, ...]) -> list[str]:
        return ["one patient"] * len(digests)

    monkeypatch.setattr(answers, "training_groups", all_one_patient)
    fit_classifier.run(spec_of(dataset), job_context(store, settings))
    support = support_of(body_of(store, "job-1"))
    assert not support.calibrated
    assert "class eosinophil cannot be divided into two folds" in support.reason
    model = load_answer_model(body_of(store, "job-1"), lambda path: read(store, "job-1", path))
    assert model.calibration is None and model.conformal is None
    assert "ece_calibrated" not in store.get_manifest(TENANT, "classifiers", "job-1")["metrics"]


@pytest.mark.parametrize("stopped_after", [3, STEPS + 3, STEPS + STEPS // 2 + 3])
def test_interrupted_job_goes_on_in_the_fold_where_it_was(
    stopped_after: int, dataset: str, store: ArtifactStore, settings: Any
) -> None:
    fit_classifier.run(spec_of(dataset), job_context(store, settings, job_id="whole"))
    checkpoints, steps = MemoryCheckpoints(every=2), []

    def counted(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        if "loss_real" in metrics:
            steps.append(phase)
            if len(steps) == stopped_after:
                raise Cancelled

    context = job_context(store, settings, job_id="cut", progress=counted, checkpoints=checkpoints)
    with pytest.raises(Cancelled):
        fit_classifier.run(spec_of(dataset), context)
    assert not store.exists(TENANT, "classifiers", "cut")
    fit_classifier.run(spec_of(dataset), context)
    num_steps = STEPS + 3 * STEPS // 2
    assert num_steps < len(steps) <= num_steps + 2, "at most two steps are repeated"
    for path in ("model.safetensors", "test_predictions.json", ANSWERS_FILE, "test_answers.json"):
        assert read(store, "cut", path) == read(store, "whole", path), path


def test_folds_have_phases_of_their_own(dataset: str, store: ArtifactStore, settings: Any) -> None:
    seen: dict[str, int] = {}

    def note(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        assert 0 <= step <= total
        seen[phase] = step

    asked = spec_of(dataset, num_calibration_folds=2)
    fit_classifier.run(asked, job_context(store, settings, progress=note))
    assert seen["training classifier"] == STEPS
    folds = [phase for phase in seen if phase.startswith("calibrating: fold")]
    assert folds == ["calibrating: fold 1 of 2", "calibrating: fold 2 of 2"]
    assert all(seen[phase] == STEPS // 2 for phase in folds)


@pytest.mark.parametrize("folds", [1, -1, 11])
def test_impossible_number_of_folds_is_refused(
    folds: int, dataset: str, store: ArtifactStore, settings: Any
) -> None:
    asked = spec_of(dataset, num_calibration_folds=folds)
    with pytest.raises(InvalidArgument, match=rf"num_calibration_folds: is {folds}") as caught:
        fit_classifier.validate(asked, store, TENANT, settings)
    assert "or 0" in caught.value.remedy


def test_training_images_that_the_base_has_seen_are_not_held_out(
    dataset: str, store: ArtifactStore, settings: Any
) -> None:
    from services.trainer.classifiers.answers import AnswerTraining, _held_out
    from services.trainer.classifiers.fit import classifier_config
    from services.trainer.classifiers.recipe import hyperparameters_from_spec
    from services.trainer.classifiers.stages import TrainingStages
    from services.trainer.datasets.reading import load_images

    dataset_id = dataset.split("/")[1]
    manifest = store.get_manifest(TENANT, "datasets", dataset_id)
    train_side = load_images(store, TENANT, dataset_id, "train", 32, settings)
    hparams = hyperparameters_from_spec(spec_of(dataset, num_steps=2), "")
    config, _ = classifier_config(hparams, list(CLASSES), settings)

    def held_out(digests: list[str]) -> Any:
        training = AnswerTraining(hparams, config, 2, manifest, {"digests": digests})
        stages = TrainingStages(MemoryCheckpoints())
        rng = np.random.default_rng(0)
        final = (rng.normal(size=(18, 8)), rng.normal(size=(18, 3)))
        return _held_out(training, train_side, final, None, settings, lambda *_: None, stages)

    monocytes = [
        d for d, c in zip(train_side.digests, train_side.class_ids, strict=True) if c == "monocyte"
    ]
    some, reason = held_out(monocytes[:4])
    assert np.bincount(some.labels).tolist() == [6, 6, 2] and reason == ""
    none, reason = held_out(monocytes)
    assert none is None and reason == "the base has seen every training image of class monocyte"
