"""Why a haematologist ought to look at an image."""

from __future__ import annotations

from enum import Enum

import numpy as np

LARGE_SET = 3
"""Classes from which on a set is large."""
NEAR_BOUNDARY = 0.15
"""Difference of the two largest probabilities below which they are about equal."""


class ReviewReason(Enum):
    """Reasons; names are those of the contract without its prefix."""

    NOT_A_CELL = "the picture does not look like a stained cell"
    BLURRED = "the picture is out of focus"
    EXPOSURE = "the picture is over- or underexposed"
    UNKNOWN_CLASS = "the cell is unlike those of every class"
    LARGE_SET = "the prediction set holds many classes, or none"
    NEAR_BOUNDARY = "two classes are about equally probable"


def near_boundary(probabilities_BC: np.ndarray) -> np.ndarray:
    """Whether the two most probable classes are about equal, bool (B,)."""
    if probabilities_BC.shape[1] < 2:
        return np.zeros(len(probabilities_BC), bool)
    second, first = np.partition(probabilities_BC, -2, axis=1)[:, -2:].T
    return first - second < NEAR_BOUNDARY


def large_set(is_in_set_BC: np.ndarray) -> np.ndarray:
    """Whether a set is empty or has ``LARGE_SET`` classes, bool (B,)."""
    sizes = is_in_set_BC.sum(axis=1)
    return (sizes == 0) | (sizes >= LARGE_SET)
