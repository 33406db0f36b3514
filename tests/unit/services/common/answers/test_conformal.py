"""Prediction sets keep their coverage in every class."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax

from services.common.answers.conformal import Conformal, checked_coverage, fit_conformal
from services.common.errors import InvalidArgument

#: Class 2 is hard: its evidence is weak.
_STRENGTH = np.array([3.0, 2.0, 0.5])


def answers(counts: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    evidence = rng.normal(0, 1, (len(labels), 3))
    evidence[np.arange(len(labels)), labels] += _STRENGTH[labels]
    return softmax(evidence, axis=1), labels


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_coverage_is_kept_in_every_class(coverage: float) -> None:
    held, counts = [], (19, 39, 59)
    for seed in range(60):
        test, test_labels = answers((400, 400, 400), seed=10_000 + seed)
        sets = fit_conformal(*answers(counts, seed)).sets(test, coverage)
        is_in = sets[np.arange(len(test)), test_labels]
        held.append([is_in[test_labels == c].mean() for c in range(3)])
    # Exactly ceil((n + 1) * coverage) / (n + 1) on average over calibration sets.
    exact = [math.ceil((n + 1) * coverage - 1e-9) / (n + 1) for n in counts]
    assert np.mean(held, axis=0) == pytest.approx(exact, abs=0.035)


def test_quantile_is_the_exact_order_statistic() -> None:
    scores = np.arange(1, 20) / 100
    for coverage, rank in ((0.9, 18), (0.95, 19), (0.05, 1), (0.051, 2)):
        threshold = Conformal((scores,)).thresholds(coverage)[0]
        assert threshold == scores[rank - 1], f"coverage {coverage} of 19 scores"


def test_class_with_too_few_images_is_in_every_set() -> None:
    few = Conformal((np.array([0.1] * 8), np.array([0.1] * 9), np.array([])))
    assert few.thresholds(0.9).tolist() == [math.inf, 0.1, math.inf]
    sets = few.sets(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), 0.9)
    assert sets.tolist() == [[True, True, True], [True, False, True]]


def test_sets_grow_with_coverage() -> None:
    model = fit_conformal(*answers((50, 50, 50), 1))
    test, _ = answers((100, 100, 100), 2)
    sizes = [model.sets(test, coverage).sum() for coverage in (0.5, 0.7, 0.9, 0.97)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90.0, float("nan")])
def test_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(InvalidArgument, match=r"options\.coverage: is ") as caught:
        checked_coverage(coverage)
    assert "for example 0.9" in caught.value.remedy


def test_coverage_is_nine_tenths_unless_asked() -> None:
    assert checked_coverage(None) == 0.9
    assert checked_coverage(0.8) == 0.8
