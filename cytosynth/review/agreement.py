"""Agreement figures of a review, with bootstrap intervals.

The figures are Cohen's κ, the AUC of a graded call, and means. Intervals resample cells (2,000
resamples, percentiles 2.5 and 97.5). A resample is a whole number per cell, so that all answers to
one cell stay together. What is undefined is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
_TOO_FEW_CELLS = 2

Weights = NDArray[np.float64]
Interval = list[float] | None


def resample(strata: NDArray[np.int64], seed: int = 0) -> Weights:
    """How often each cell is in each resample, resampled within its stratum.

    Args:
        strata: (cells,), a number per stratum.
        seed: Seed of the resamples.

    Returns:
        (NUM_RESAMPLES, cells); each stratum's weights add up to its size.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((NUM_RESAMPLES, len(strata)))  # floats, which multiply many times faster
    for stratum in np.unique(strata):
        (members,) = np.nonzero(strata == stratum)
        count = len(members)
        weights[:, members] = rng.multinomial(count, np.full(count, 1 / count), NUM_RESAMPLES)
    return weights


def interval(values: NDArray[np.float64], num_cells: int) -> Interval:
    """Middle 95 % of the defined resampled values.

    None below two cells or without defined values.
    """
    defined = values[np.isfinite(values)]
    if num_cells < _TOO_FEW_CELLS or not defined.size:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(low), float(high)]


def weighted_means(values: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """Mean of ``values`` (answers,) in each resample: weights (resamples, answers)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ values) / weights.sum(axis=1))


def cohen_kappa(left: Sequence[str], right: Sequence[str]) -> float | None:
    """Cohen's κ of two labellings.

    None without labels, or if both labellings consist of one and the same label.
    """
    from sklearn.metrics import cohen_kappa_score

    labels = {*left, *right}
    if len(labels) < 2:
        return None
    value = float(cohen_kappa_score(left, right, labels=sorted(labels)))
    return value if math.isfinite(value) else None


def resampled_kappas(
    left: Sequence[str], right: Sequence[str], weights: Weights
) -> NDArray[np.float64]:
    """Cohen's κ in each resample (resamples,), NaN where undefined."""
    labels, codes = np.unique([*left, *right], return_inverse=True)
    size = len(labels)
    pairs = codes[: len(left)] * size + codes[len(left) :]
    tables = (weights @ np.eye(size * size)[pairs]).reshape(-1, size, size)
    total = tables.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(tables, axis1=1, axis2=2) / total
        expected = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
        return np.asarray((observed - expected) / (1 - expected))


def auc(is_synthetic: NDArray[np.bool_], grades: NDArray[np.int64]) -> float | None:
    """Area under the ROC curve of the graded call.

    None unless cells of both origins were answered.
    """
    from sklearn.metrics import roc_auc_score

    if is_synthetic.all() or not is_synthetic.any():
        return None
    return float(roc_auc_score(is_synthetic, grades))


def resampled_aucs(
    is_synthetic: NDArray[np.bool_], grades: NDArray[np.int64], weights: Weights
) -> NDArray[np.float64]:
    """Area under the ROC curve in each resample (resamples,).

    NaN where undefined; ties count half.
    """
    levels = np.eye(int(grades.max(initial=0)) + 1)[grades]
    real = weights[:, ~is_synthetic] @ levels[~is_synthetic]
    synthetic = weights[:, is_synthetic] @ levels[is_synthetic]
    below = np.cumsum(real, axis=1) - real
    wins = (synthetic * (below + real / 2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(wins / (real.sum(axis=1) * synthetic.sum(axis=1)))
