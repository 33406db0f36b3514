"""Figures of answers: calibration, coverage and referral."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from services.trainer.evaluation.answers import AnsweredTest, answer_figures, headline_figures
from services.trainer.evaluation.metrics import evaluate
from services.trainer.evaluation.predictions import Predictions

CLASSES = ("a", "b", "c")


def run(seed: int, counts: tuple[int, ...] = (60, 60, 60)) -> tuple[Predictions, AnsweredTest]:
    """Softmax that is three times too sure of itself, and calibrated answers."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    evidence = rng.normal(0, 1, (len(labels), 3))
    evidence[np.arange(len(labels)), labels] += 1
    digests = tuple(str(n) for n in range(len(labels)))
    plain = Predictions(CLASSES, digests, labels, softmax(3 * evidence, axis=1))
    honest = Predictions(CLASSES, digests, labels, softmax(evidence, axis=1))
    in_set = honest.probabilities > 0.15
    scores = rng.uniform(0, 0.9, len(labels))
    return plain, AnsweredTest(honest, 0.9, in_set, ~in_set.any(axis=1), scores)


def test_calibration_shows_in_the_figures() -> None:
    plain, answered = run(0)
    figures = answer_figures([plain], [answered])
    assert figures["ece_before"]["value"] == pytest.approx(evaluate(plain).metrics["ece"])
    assert figures["ece_before"]["interval"] == pytest.approx(evaluate(plain).intervals["ece"])
    assert figures["ece_after"]["value"] < figures["ece_before"]["value"] - 0.1
    low, high = figures["macro_f1"]["interval"]
    assert low < figures["macro_f1"]["value"] < high
    assert figures["macro_f1"]["value"] == pytest.approx(
        evaluate(answered.predictions).metrics["macro_f1"]
    )


def test_coverage_and_size_of_sets() -> None:
    plain, answered = run(1)
    figures = answer_figures([plain], [answered])
    held = answered.is_in_set[np.arange(180), plain.labels]
    assert figures["coverage_per_class"] == pytest.approx(
        {c: held[60 * n : 60 * n + 60].mean() for n, c in enumerate(CLASSES)}
    )
    assert figures["mean_set_size"]["value"] == pytest.approx(answered.is_in_set.sum() / 180)
    assert headline_figures(figures)["lowest_coverage"] == min(
        figures["coverage_per_class"].values()
    )


def test_what_is_not_referred_is_more_often_right_and_strangers_are_referred_first() -> None:
    plain, answered = run(2)
    figures = answer_figures([plain], [answered])
    assert figures["macro_f1_kept"]["value"] > figures["macro_f1"]["value"] + 0.03
    answered.scores[:20] = 1.5
    kept = answered.least_in_need()
    assert len(kept) == 144 and not set(kept) & set(range(20))


def test_balanced_figures_ignore_the_shares_of_the_test_set() -> None:
    plain, answered = run(3, (200, 200, 200))
    skewed_plain, skewed = run(3, (200, 200, 200))
    kept = np.r_[0:200, 200:220, 400:420]
    part = [
        Predictions(
            CLASSES, tuple(p.digests[n] for n in kept), p.labels[kept], p.probabilities[kept]
        )
        for p in (skewed_plain, skewed.predictions)
    ]
    few = AnsweredTest(
        part[1], 0.9, skewed.is_in_set[kept], skewed.needs_review[kept], skewed.scores[kept]
    )
    whole, less = answer_figures([plain], [answered]), answer_figures([part[0]], [few])
    assert whole["balanced_ece_before"]["value"] == pytest.approx(whole["ece_before"]["value"])
    gap = abs(less["balanced_ece_before"]["value"] - whole["balanced_ece_before"]["value"])
    assert gap < 0.08


def test_runs_are_averaged() -> None:
    runs = [run(seed) for seed in (4, 5)]
    figures = answer_figures([p for p, _ in runs], [a for _, a in runs])
    alone = [answer_figures([p], [a])["ece_after"]["value"] for p, a in runs]
    assert figures["ece_after"]["value"] == pytest.approx(np.mean(alone))


def test_answers_survive_their_file() -> None:
    plain, answered = run(6)
    again = AnsweredTest.from_dict(json.loads(json.dumps(answered.to_dict())))
    assert np.array_equal(again.is_in_set, answered.is_in_set)
    before, after = answer_figures([plain], [answered]), answer_figures([plain], [again])
    assert after["ece_after"]["value"] == pytest.approx(before["ece_after"]["value"], abs=1e-6)
    assert after["share_needing_review"] == before["share_needing_review"]
