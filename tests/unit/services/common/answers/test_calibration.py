"""Calibrated probabilities are the shares that come true."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from services.common.answers.calibration import fit_calibration

EQUAL = np.full(3, 1 / 3)


def overconfident(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and logits tripled with class 0 favoured by 0.8."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(3), num_images // 3)
    evidence = rng.normal(0, 1, (len(labels), 3))
    evidence[np.arange(len(labels)), labels] += 1.0
    # Evidence of unit variance around a mean of 1 has the log likelihood ratio as its value.
    return 3 * (evidence + np.array([0.8, 0, 0])), labels


def test_temperature_and_bias_are_recovered() -> None:
    logits, labels = overconfident(6000)
    found = fit_calibration(logits, labels, EQUAL)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.biases == pytest.approx(np.array([-0.8, 0, 0]) + 0.8 / 3, abs=0.1)


def test_held_out_likelihood_improves() -> None:
    logits, labels = overconfident(300)
    fresh_logits, fresh_labels = overconfident(3000, seed=1)
    rows = np.arange(len(fresh_labels))
    before = softmax(fresh_logits, axis=1)[rows, fresh_labels]
    after = fit_calibration(logits, labels, EQUAL).probabilities(fresh_logits)
    assert after.sum(axis=1) == pytest.approx(1)
    assert np.log(after[rows, fresh_labels]).mean() > np.log(before).mean() + 0.2


def test_shares_of_the_fitted_images_do_not_matter() -> None:
    logits, labels = overconfident(6000)
    kept = (labels != 2) | (np.arange(len(labels)) % 10 == 2)
    whole = fit_calibration(logits, labels, EQUAL)
    skewed = fit_calibration(logits[kept], labels[kept], EQUAL)
    assert skewed.biases == pytest.approx(whole.biases, abs=0.15)


def test_few_images_move_little() -> None:
    logits = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    found = fit_calibration(logits, np.arange(3), EQUAL)
    assert 0.3 < found.temperature < 1.01, "perfect answers of three images prove little"
    assert np.abs(found.biases).max() < 0.05


def test_class_without_an_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="no held-out image"):
        fit_calibration(np.zeros((2, 3)), np.array([0, 1]), EQUAL)
