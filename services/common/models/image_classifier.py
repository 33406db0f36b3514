"""A network that gives each class a logit: the interface of all classifiers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from services.common.models.classifier_config import ClassifierConfig


class ImageClassifier(nn.Module):
    """A network that gives each class a logit."""

    config: ClassifierConfig

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of RGB images (B, 3, image_size, image_size) in 0 to 1."""
        raise NotImplementedError

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The same as ``logits``."""
        return self.logits(images_BCHW)

    def learned_state(self) -> dict[str, torch.Tensor]:
        """The tensors that training changes, which are all that is stored."""
        return self.state_dict()

    def load_learned_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes over what ``learned_state`` gave; other names are an error."""
        missing = self.load_state_dict(tensors, strict=False)
        if missing.unexpected_keys or set(self.learned_state()) - set(tensors):
            raise ValueError("the weights do not belong to this classifier's config")

    def normalize(self, images_BCHW: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
        """Channel-wise standardised images."""
        mean_t = torch.as_tensor(mean, device=images_BCHW.device).view(1, 3, 1, 1)
        std_t = torch.as_tensor(std, device=images_BCHW.device).view(1, 3, 1, 1)
        return (images_BCHW - mean_t) / std_t
