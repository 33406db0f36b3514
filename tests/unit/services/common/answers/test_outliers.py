"""Cells of no known class lie far from the training cells."""

from __future__ import annotations

import numpy as np

from services.common.answers.outliers import distances, fit_outliers


def features(centres: np.ndarray, num_each: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(centres, num_each, axis=0) + rng.normal(0, 0.3, (len(centres) * num_each, 16))


def test_one_is_the_99th_percentile_of_held_out_cells_and_strangers_lie_beyond() -> None:
    known = np.eye(16)[:3] * 4
    bank, held_out = features(known, 50, 0), features(known, 400, 1)
    model = fit_outliers(bank, distances(held_out, bank))
    fresh = model.scores(features(known, 400, 2))
    assert 0.003 < (fresh > 1).mean() < 0.03
    stranger = model.scores(features(np.eye(16)[5:6] * 4, 100, 3))
    assert (stranger > 1).all()


def test_length_of_features_does_not_matter() -> None:
    bank, asked = features(np.eye(16)[:2], 20, 0), features(np.eye(16)[:1], 5, 1)
    np.testing.assert_allclose(distances(asked, bank), distances(7 * asked, 3 * bank), atol=1e-5)


def test_a_bank_of_few_cells_suffices() -> None:
    corners = np.eye(16)
    assert distances(corners[:2], corners[:2]).tolist() == [0, 0], "the nearest of two"
    np.testing.assert_allclose(distances(corners[2:3], corners[:2]), np.sqrt(2), rtol=1e-6)


def test_one_odd_training_cell_does_not_make_its_like_known() -> None:
    bank = np.concatenate([features(np.eye(16)[:3] * 4, 50, 0), np.eye(16)[7:8] * 4])
    held_out = features(np.eye(16)[:3] * 4, 100, 1)
    model = fit_outliers(bank, distances(held_out, bank))
    assert model.scores(np.eye(16)[7:8] * 4)[0] > 1
