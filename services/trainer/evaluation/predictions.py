"""Answers of a classifier on the locked test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np


class PredictionsJson(TypedDict):
    """JSON form of ``Predictions``."""

    class_ids: list[str]
    digests: list[str]
    labels: list[int]
    probabilities: list[list[float]]


@dataclass(frozen=True)
class Predictions:
    """Answers of one classifier on the test set.

    Attributes:
        class_ids: In the order of the columns of ``probabilities``.
        digests: SHA-256 (hex) of each test image, N of them.
        labels: True classes (N,), positions in ``class_ids``.
        probabilities: (N, classes), rows sum to 1.
    """

    class_ids: tuple[str, ...]
    digests: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image (N,)."""
        return self.probabilities.argmax(axis=1)

    def to_dict(self) -> PredictionsJson:
        """JSON form; ``from_dict`` reads it back."""
        return {
            "class_ids": list(self.class_ids),
            "digests": list(self.digests),
            "labels": self.labels.tolist(),
            "probabilities": np.round(self.probabilities, 7).tolist(),
        }

    @staticmethod
    def from_dict(data: PredictionsJson) -> Predictions:
        """The predictions that ``to_dict`` wrote."""
        return Predictions(
            tuple(data["class_ids"]),
            tuple(data["digests"]),
            np.array(data["labels"], dtype=np.int64),
            np.array(data["probabilities"]),
        )
