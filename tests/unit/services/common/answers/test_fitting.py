"""Answers of fold networks are brought to the final one's scale."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from services.common.answers.calibration import fit_calibration
from services.common.answers.fitting import HeldOut
from services.common.answers.outliers import distances, fit_outliers, typical_distance

EQUAL = np.full(3, 1 / 3)


def network(seed: int, scale: float, wide: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, logits and labels of 300 cells."""
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    evidence = rng.normal(0, 1, (300, 3))
    evidence[np.arange(300), labels] += 1.5
    features = 4 * np.eye(16)[labels] + rng.normal(0, wide, (300, 16))
    return features, scale * evidence, labels


def test_matched_answers_calibrate_a_final_network_that_is_surer_of_itself() -> None:
    own_features, own_logits, _ = network(0, 1.0, 0.5)
    final_features, final_logits, _ = network(0, 3.0, 0.3)
    asked_features, asked_logits, asked_labels = network(1, 1.0, 0.5)
    fresh_features, fresh_logits, fresh_labels = network(2, 3.0, 0.3)
    held_out = HeldOut(asked_logits, asked_labels, distances(asked_features, own_features))
    matched = held_out.matched(own_features, own_logits, final_features, final_logits)

    def loss(found: HeldOut) -> float:
        model = fit_calibration(found.logits, found.labels, EQUAL)
        log_p = log_softmax(fresh_logits / model.temperature + model.biases, axis=1)
        return -float(log_p[np.arange(300), fresh_labels].mean())

    assert loss(matched) < loss(held_out) - 0.1

    def share_over_one(found: HeldOut) -> float:
        scores = fit_outliers(final_features, found.distances).scores(fresh_features)
        return float((scores > 1).mean())

    assert share_over_one(held_out) == 0, "the scale of another network is too wide"
    assert 0 < share_over_one(matched) < 0.06


def test_networks_of_one_scale_stay_as_they_are() -> None:
    features, logits, labels = network(0, 1.0, 0.5)
    held_out = HeldOut(logits, labels, np.ones(300))
    same = held_out.matched(features, logits, features, logits)
    np.testing.assert_allclose(same.logits, logits)
    np.testing.assert_allclose(same.distances, 1)


def test_typical_distance_leaves_out_the_cell_itself() -> None:
    corners = np.eye(8)
    assert typical_distance(corners) == pytest.approx(np.sqrt(2))
    assert typical_distance(np.ones((2, 4))) == pytest.approx(0, abs=1e-3)
