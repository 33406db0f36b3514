"""Distance of an image's features from those of the training cells.

Distance to the k-th nearest training cell among features of length 1 (Sun et al. 2022), with k the
square root of their number. Measured against relative Mahalanobis in docs/lab-notebook.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_QUANTILE = 0.99
_LEAST = 1e-6
_MAX_BANK, _MAX_COMPARED = 8192, 2048


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


def typical_distance(features_ND: np.ndarray) -> float:
    """Median distance of cells to their k-th nearest."""
    unit = _unit(at_most(features_ND, _MAX_COMPARED))
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    place = max(1, len(unit) - _neighbour(len(unit)))  # the smallest is the cell itself
    nearest = np.partition(similarity, place, axis=1)[:, place]
    return max(float(np.median(np.sqrt(np.maximum(2 - 2 * nearest, 0)))), _LEAST)


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
    place = max(0, similarity.shape[1] - _neighbour(similarity.shape[1]))
    nearest = np.partition(similarity, place, axis=1)[:, place]
    return np.sqrt(np.maximum(2 - 2 * nearest.astype(float), 0))


def _neighbour(num_cells: int) -> int:
    return max(1, round(num_cells**0.5))


def _unit(features_BD: np.ndarray) -> np.ndarray:
    rows = np.asarray(features_BD, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _LEAST)
