"""Interface of what computes a classifier, and torch as one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from services.common.models.image_classifier import ImageClassifier


class Runtime(Protocol):
    """Computes a classifier; several threads may do so at once."""

    @property
    def name(self) -> str:
        """What answers call it, for example ``torch``."""

    def run(self, images_BHWC: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray]:
        """Features (B, D) and logits (B, C), float32, of RGB images."""


class TorchRuntime:
    """The network as torch runs it."""

    name = "torch"

    def __init__(self, network: ImageClassifier, device: torch.device) -> None:
        self._network, self._device = network, device

    def run(self, images_BHWC: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray]:
        """Features (B, D) and logits (B, C), float32, of RGB images."""
        from services.common.models.classifiers import features_and_logits  # imports torch

        return features_and_logits(self._network, images_BHWC, self._device)
