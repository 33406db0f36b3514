"""Distance of an image's features from those of the training cells.

Distance to the k-th nearest training cell among features of length 1 (Sun et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NEIGHBOUR = 5
_QUANTILE = 0.99
_LEAST = 1e-6
_MAX_BANK = 8192


@dataclass(frozen=True)
class Outliers:
    """Features of the training cells, and the distance that counts as 1.

    Attributes:
        bank: Features of the training cells (N, D), each of length 1.
        scale: 99th percentile of the distances of held-out cells.
    """

    bank: np.ndarray
    scale: float

    def scores(self, features_BD: np.ndarray) -> np.ndarray:
        """Unlikeness to training cells (B,); 1: 99th percentile of held-out cells."""
        return _distances(features_BD, self.bank) / self.scale


def distances(features_BD: np.ndarray, bank_ND: np.ndarray) -> np.ndarray:
    """Distance (B,) of each image to its k-th nearest in ``bank_ND``."""
    return _distances(features_BD, _unit(at_most(bank_ND)))


def at_most(rows: np.ndarray, most: int = _MAX_BANK) -> np.ndarray:
    """The rows, or a random but fixed choice of them."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]


def fit_outliers(bank_ND: np.ndarray, held_out_distances: np.ndarray) -> Outliers:
    """Outlier detection of a network.

    Args:
        bank_ND: Its features of the training cells.
        held_out_distances: ``distances`` of cells that a network did not learn from.
    """
    scale = max(float(np.quantile(held_out_distances, _QUANTILE)), _LEAST)
    return Outliers(_unit(at_most(bank_ND)), scale)


def _distances(features_BD: np.ndarray, unit_bank_ND: np.ndarray) -> np.ndarray:
    similarity = _unit(features_BD) @ unit_bank_ND.T
    place = max(0, similarity.shape[1] - _NEIGHBOUR)
    nearest = np.partition(similarity, place, axis=1)[:, place]
    return np.sqrt(np.maximum(2 - 2 * nearest.astype(float), 0))


def _unit(features_BD: np.ndarray) -> np.ndarray:
    rows = np.asarray(features_BD, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _LEAST)
