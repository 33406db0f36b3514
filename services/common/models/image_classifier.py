"""Interface of all image classifiers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from services.common.models.classifier_config import ClassifierConfig


class ImageClassifier(nn.Module):
    """A network that gives each class a logit."""

    config: ClassifierConfig

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Features (B, D) of RGB images_BCHW, 0 to 1."""
        raise NotImplementedError

    def head(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes), float32, of ``features``."""
        raise NotImplementedError

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Class logits of RGB images.

        Images are (B, 3, H, W) in 0 to 1, logits (B, classes).
        """
        return self.head(self.features(images_BCHW))

    def features_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, D) and logits (B, classes) in one pass."""
        features_BD = self.features(images_BCHW)
        return features_BD, self.head(features_BD)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits, see ``logits``."""
        return self.logits(images_BCHW)

    def fold(self) -> None:
        """Folds what only training needs apart into the weights, for good."""

    def learned_state(self) -> dict[str, torch.Tensor]:
        """Tensors that training changes, which alone are stored."""
        return self.state_dict()

    def load_learned_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Loads what ``learned_state`` returned; raises ValueError for other names."""
        missing = self.load_state_dict(tensors, strict=False)
        if missing.unexpected_keys or set(self.learned_state()) - set(tensors):
            raise ValueError("the weights do not belong to this classifier's config")

    def normalize(self, images_BCHW: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
        """Images standardized by channel."""
        mean_t = torch.as_tensor(mean, device=images_BCHW.device).view(1, 3, 1, 1)
        std_t = torch.as_tensor(std, device=images_BCHW.device).view(1, 3, 1, 1)
        return (images_BCHW - mean_t) / std_t
