"""Images that a classifier learns from, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.trainer.datasets.reading import SplitImages


@dataclass(frozen=True)
class LabelledImages:
    """Square images with their labels.

    Attributes:
        images: uint8 (N, S, S, 3), RGB.
        labels: int64 (N,), positions in the classifier's class list.
    """

    images: np.ndarray
    labels: np.ndarray


class SyntheticImages(Protocol):
    """Synthetic images that may still be arriving."""

    def wait_for(self, share: float) -> LabelledImages:
        """Waits for the first ``share`` (0 to 1) of the images."""
        ...


def labelled(images: SplitImages, class_ids: Sequence[str]) -> LabelledImages:
    """Images of a split, labelled with positions in ``class_ids``."""
    position = {class_id: i for i, class_id in enumerate(class_ids)}
    labels = np.array([position[class_id] for class_id in images.class_ids], dtype=np.int64)
    return LabelledImages(images.images, labels)
