"""Shares of a laboratory correct the answer, and can be estimated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax

from services.common.answers.priors import checked_priors, corrected, estimated_priors
from services.common.errors import InvalidArgument

CLASSES = ("basophil", "lymphocyte", "monocyte")
EQUAL = np.full(3, 1 / 3)


def test_correction_is_bayes_rule() -> None:
    found = corrected(np.array([[0.5, 0.3, 0.2]]), EQUAL, np.array([0.1, 0.8, 0.1]))
    assert found[0] == pytest.approx(np.array([0.05, 0.24, 0.02]) / 0.31)


def test_class_without_a_share_is_impossible_and_rows_stay_whole() -> None:
    sure = np.array([[1.0, 0, 0], [0.2, 0.4, 0.4]])
    found = corrected(sure, EQUAL, np.array([0, 0.75, 0.25]))
    assert found[:, 0].tolist() == [0, 0]
    assert found[0] == pytest.approx([0, 0.75, 0.25]), "only the shares are left to go by"
    assert found.sum(axis=1) == pytest.approx(1)


def test_estimate_finds_the_shares_of_a_batch() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.05, 0.7, 0.25])
    labels = rng.choice(3, 4000, p=shares)
    evidence = rng.normal(0, 1, (4000, 3)) * math.sqrt(2)
    evidence[np.arange(4000), labels] += 2  # variance 2 and mean 2: the log likelihood ratio
    found = estimated_priors(softmax(evidence, axis=1), EQUAL)
    assert found == pytest.approx(shares, abs=0.03)
    assert found.sum() == pytest.approx(1)


def test_named_shares_are_put_in_order_and_others_are_zero() -> None:
    assert checked_priors({"monocyte": 0.25, "basophil": 0.75}, CLASSES).tolist() == [0.75, 0, 0.25]
    rounded = checked_priors({"monocyte": 0.333, "basophil": 0.333, "lymphocyte": 0.3335}, CLASSES)
    assert rounded.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("asked", "problem", "remedy"),
    [
        ({"blast": 1.0}, r"no class 'blast'", r"basophil, lymphocyte, monocyte"),
        ({"basophil": -0.1, "monocyte": 1.1}, r"share of basophil is -0\.1", r"from 0 to 1"),
        ({"basophil": 62.0, "monocyte": 38.0}, r"share of basophil is 62", r"divide"),
        ({"basophil": float("nan")}, r"share of basophil is nan", r"from 0 to 1"),
        ({"basophil": 0.5, "monocyte": 0.4}, r"sum to 0\.9", r"divide each"),
        ({"basophil": 0.0}, r"sum to 0", r"divide each"),
    ],
)
def test_impossible_shares_are_refused(asked: dict[str, float], problem: str, remedy: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        checked_priors(asked, CLASSES)
    assert caught.value.field == "options.class_priors"
    assert remedy in caught.value.remedy
