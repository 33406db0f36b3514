"""Class-conditional (Mondrian) split conformal prediction sets.

The score of a class is 1 minus its calibrated probability. A class belongs to the set if its score
is at most the ``ceil((n + 1) * coverage)``-th smallest of its ``n`` held-out scores. So the set
holds the true class with at least that chance, whichever it is (Vovk 2012; Angelopoulos and Bates
2023). A class with fewer held-out images than this order statistic needs is in every
set: nothing weaker would keep the promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from services.common.errors import InvalidArgument

FIELD = "options.coverage"
DEFAULT_COVERAGE = 0.9


@dataclass(frozen=True)
class Conformal:
    """Held-out scores of the true class, ascending, one array for each class."""

    scores: tuple[np.ndarray, ...]

    def thresholds(self, coverage: float) -> np.ndarray:
        """Largest score (C,) in the set; infinite for too few images."""
        return np.array([_order_statistic(scores, coverage) for scores in self.scores])

    def sets(self, probabilities_BC: np.ndarray, coverage: float) -> np.ndarray:
        """Membership of each class in each image's set, bool (B, C).

        Args:
            probabilities_BC: Calibrated, under the class shares of training.
            coverage: Chance with which a set holds the true class, 0 to 1 exclusive.
        """
        return 1 - np.asarray(probabilities_BC, float) <= self.thresholds(coverage)


def fit_conformal(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> Conformal:
    """Scores of held-out images, of classes ``labels_N``, by class."""
    scores = 1 - np.asarray(probabilities_NC, float)[np.arange(len(labels_N)), labels_N]
    num_classes = probabilities_NC.shape[1]
    return Conformal(tuple(np.sort(scores[labels_N == c]) for c in range(num_classes)))


def checked_coverage(coverage: float | None) -> float:
    """Coverage asked for, or the default; raises InvalidArgument outside 0 to 1."""
    if coverage is None:
        return DEFAULT_COVERAGE
    if not math.isfinite(coverage) or not 0 < coverage < 1:
        remedy = "send more than 0 and less than 1, for example 0.9"
        raise InvalidArgument(FIELD, f"is {coverage:g}", remedy)
    return float(coverage)


def _order_statistic(ascending: np.ndarray, coverage: float) -> float:
    # Without the tiny slack, 0.9 * 10 would count as more than 9.
    rank = math.ceil((len(ascending) + 1) * coverage - 1e-9)
    return float(ascending[rank - 1]) if 1 <= rank <= len(ascending) else math.inf
