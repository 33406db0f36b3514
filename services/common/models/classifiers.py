"""The image classifiers: ResNets trained from scratch, and CLIP tuned with LoRA.

``build_model`` builds one, ``save_model`` and ``load_model`` write and read its safetensors, which
the JSON config beside it belongs to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from services.common.models.classifier_config import RESNETS, ClassifierConfig
from services.common.models.image_classifier import ImageClassifier
from services.common.models.resnet_classifier import ResNetClassifier


def build_model(config: ClassifierConfig, models_dir: Path) -> ImageClassifier:
    """Builds an untrained classifier with torch's global random generator.

    Args:
        config: What to build.
        models_dir: Folder of the embedded models, which holds the CLIP bases.

    Raises:
        InvalidArgument: If there is no such CLIP base.
        FailedPrecondition: If its weights are not of ``config.clip_revision``.
    """
    if config.architecture in RESNETS:
        return ResNetClassifier(config)
    from services.common.models.clip_classifier import (
        ClipClassifier,  # open_clip takes seconds to import
    )

    return ClipClassifier(config, models_dir)


def save_model(model: ImageClassifier) -> dict[str, bytes]:
    """Files of a classifier by name: ``model.safetensors``."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.learned_state().items()}
    return {"model.safetensors": save_tensors(tensors)}


def load_model(config: ClassifierConfig, weights: bytes, models_dir: Path) -> ImageClassifier:
    """Reads a classifier that ``save_model`` wrote, in eval mode on the CPU.

    Raises:
        InvalidArgument, FailedPrecondition: As ``build_model``.
        ValueError: If the weights are not of this config.
    """
    model = build_model(config, models_dir)
    model.load_learned_state(load_tensors(weights))
    return model.eval()


@torch.no_grad()
def probabilities(model: ImageClassifier, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Class probabilities (N, classes), float64, each row summing to 1.

    Args:
        model: In eval mode, on ``device``.
        images: uint8 (N, image_size, image_size, 3), RGB.
        device: Device of the model.
    """
    _, logits = features_and_logits(model, images, device)
    return torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()


@torch.no_grad()
def features_and_logits(
    model: ImageClassifier, images: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and logits (N, classes), float32, of a batch.

    Args and units are those of ``probabilities``.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    features, logits = model.features_and_logits(pixels.permute(0, 3, 1, 2).float() / 255)
    return features.float().cpu().numpy(), logits.float().cpu().numpy()


class PixelClassifier(nn.Module):
    """A classifier of uint8 pixels, as runtimes other than torch compile it."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, D) and logits (B, C) of RGB images."""
        features_BD, logits_BC = self.model.features_and_logits(
            images_BHWC.permute(0, 3, 1, 2).float() / 255
        )
        return features_BD.float(), logits_BC.float()
