"""Corrects posteriors for class shares, and estimates shares from a batch.

Source: Saerens, Latinne and Decaestecker 2002, equations 2.4 and 2.9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np

from services.common.errors import InvalidArgument, shown

FIELD = "options.class_priors"
MIN_IMAGES_FOR_ESTIMATE = 50
"""Images below which shares are not estimated."""
_SUM_TOLERANCE = 1e-3
_MAX_ROUNDS, _TOLERANCE = 1000, 1e-7


class PriorSource(Enum):
    """Origin of class shares, named as in the contract."""

    TRAINING = "training"
    REQUEST = "request"
    ESTIMATED = "estimated"


def checked_priors(asked: Mapping[str, float], class_ids: Sequence[str]) -> np.ndarray:
    """Class shares of a request (C,) by ``class_ids``, summing to 1.

    Classes that are not named have no share.

    Raises:
        InvalidArgument: If a class is unknown, a share is no number from 0 to 1, or they do not
            sum to 1.
    """
    for class_id, share in asked.items():
        if class_id not in class_ids:
            remedy = f"send shares of {', '.join(class_ids)}"
            raise InvalidArgument(FIELD, f"the classifier has no class {shown(class_id)}", remedy)
        if not math.isfinite(share) or not 0 <= share <= 1:
            raise InvalidArgument(
                FIELD,
                f"the share of {class_id} is {share:g}",
                "send shares from 0 to 1; divide percentages or counts by their sum",
            )
    total = math.fsum(asked.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise InvalidArgument(FIELD, f"the shares sum to {total:g}", "divide each by their sum")
    return np.array([asked.get(class_id, 0.0) for class_id in class_ids]) / total


def corrected(
    probabilities_BC: np.ndarray, assumed_C: np.ndarray, priors_C: np.ndarray
) -> np.ndarray:
    """Posteriors (B, C) under ``priors_C`` of those under ``assumed_C``."""
    weighted = np.asarray(probabilities_BC, float) * (priors_C / assumed_C)
    sums = weighted.sum(axis=1, keepdims=True)
    # Where every class with a share underflowed, the shares are all that is known.
    return np.where(sums > 0, weighted / np.where(sums > 0, sums, 1), priors_C)


def estimated_priors(probabilities_BC: np.ndarray, assumed_C: np.ndarray) -> np.ndarray:
    """Class shares (C,) of a batch by expectation maximization.

    Args:
        probabilities_BC: Calibrated posteriors under ``assumed_C``, at least one row.
        assumed_C: Class shares that these assume, each over 0.
    """
    priors = np.array(assumed_C, float)
    for _ in range(_MAX_ROUNDS):
        previous = priors
        priors = corrected(probabilities_BC, assumed_C, priors).mean(axis=0)
        if np.abs(priors - previous).max() < _TOLERANCE:
            break
    return priors
