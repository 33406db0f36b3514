"""Figures agree with the trainer's; resamples are of images or patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from cytosynth.evaluation.figures import LabelledAnswers, auc, figures_of
from services.trainer.evaluation.metrics import evaluate
from services.trainer.evaluation.predictions import Predictions

CLASSES = ("a", "b", "c")


def answers(num_each: int = 50, seed: int = 0, patients: tuple[str, ...] = ()) -> LabelledAnswers:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), num_each)
    evidence = rng.normal(0, 1, (len(labels), 3))
    evidence[np.arange(len(labels)), labels] += 1.2
    shares = np.exp(evidence) / np.exp(evidence).sum(axis=1, keepdims=True)
    in_set = shares > 0.2
    scores = rng.uniform(0, 0.9, len(labels))
    return LabelledAnswers(CLASSES, labels, shares, in_set, scores, scores > 0.8, patients)


def test_figures_are_those_of_the_trainer() -> None:
    asked = answers()
    found = figures_of(asked)
    digests = tuple(str(n) for n in range(150))
    expected = evaluate(Predictions(CLASSES, digests, asked.labels, asked.probabilities))
    for ours, theirs in (("accuracy", "top1"), ("macro_f1", "macro_f1"), ("ece", "ece")):
        assert found[ours]["value"] == pytest.approx(expected.metrics[theirs])
        assert found[ours]["interval"] == pytest.approx(expected.intervals[theirs], abs=0.01)
    assert found["recall_per_class"] == pytest.approx(expected.per_class_recall)


def test_sets_and_review() -> None:
    asked = answers()
    found = figures_of(asked)
    assert asked.is_in_set is not None
    held = asked.is_in_set[np.arange(150), asked.labels]
    assert found["coverage_per_class"]["b"] == pytest.approx(held[50:100].mean())
    assert found["mean_set_size"]["value"] == pytest.approx(asked.is_in_set.sum() / 150)
    assert found["share_needing_review"]["value"] == pytest.approx(asked.needs_review.mean())
    assert found["macro_f1_kept"]["value"] > found["macro_f1"]["value"]


def test_what_is_kept_leaves_out_strangers_first() -> None:
    asked = answers()
    assert asked.scores is not None
    asked.scores[::5] = 2.0
    kept = asked.least_in_need()
    assert sorted(kept) == [n for n in range(150) if n % 5]
    predicted = asked.probabilities.argmax(axis=1)
    expected = f1_score(asked.labels[kept], predicted[kept], average="macro")
    assert figures_of(asked)["macro_f1_kept"]["value"] == pytest.approx(expected)


def test_images_of_few_patients_make_wide_intervals() -> None:
    alone = figures_of(answers())["accuracy"]["interval"]
    patients = tuple(f"p{n % 50 // 25}" for n in range(150))
    together = figures_of(answers(patients=patients))["accuracy"]["interval"]
    assert np.ptp(together) != pytest.approx(np.ptp(alone), rel=0.05)
    whole = answers(2, seed=3, patients=("p1", "", "p2", "p2", "", "p3"))
    low, high = figures_of(whole)["accuracy"]["interval"]
    assert 0 <= low <= high <= 1, "resamples without a class keep its images"


def test_without_sets_there_is_no_coverage() -> None:
    asked = answers()
    plain = LabelledAnswers(
        CLASSES, asked.labels, asked.probabilities, None, None, np.zeros(150, bool)
    )  # fmt: skip
    found = figures_of(plain)
    assert "coverage_per_class" not in found and "mean_set_size" not in found
    assert found["macro_f1_kept"]["value"] > 0


def test_auc_is_that_of_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(0)
    known, strange = np.round(rng.normal(0, 1, 80), 1), np.round(rng.normal(1, 1, 60), 1)
    expected = roc_auc_score(np.r_[np.zeros(80), np.ones(60)], np.r_[known, strange])
    assert auc(known, strange) == pytest.approx(expected)
