"""Encodes real images once, so that training sees latents only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from services.common.bases import Pipeline
    from services.trainer.jobs import ProgressFn

PHASE_ENCODE = "encoding images"
#: Encoded images kept in memory, at most; beyond, fewer orientations are encoded.
MAX_ENCODED = 16_384


@dataclass(frozen=True)
class EncodedImages:
    """Latent distributions, scaled as the UNet takes them.

    Attributes:
        mean, std: float32 (N, V, C, h, w) for N images in V orientations.
        class_ids: N class ids.
    """

    mean: torch.Tensor
    std: torch.Tensor
    class_ids: tuple[str, ...]


@torch.no_grad()
def encode_images(
    pipeline: Pipeline,
    images: np.ndarray,
    class_ids: Sequence[str],
    progress: ProgressFn,
    max_encoded: int = MAX_ENCODED,
) -> EncodedImages:
    """Latent distributions of all images in up to eight orientations (turns and mirror images).

    The first orientation is upright; there are fewer than eight where ``max_encoded`` forbids it.
    """
    num_ways = next(ways for ways in (8, 4, 2, 1) if len(images) * ways <= max_encoded or ways == 1)
    means, stds = [], []
    for index, image in enumerate(images):
        progress(PHASE_ENCODE, index, len(images), {})
        ways = np.stack([_oriented(image, way) for way in range(num_ways)])
        pixels = torch.from_numpy(ways).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        found = pipeline.vae.encode(pixels.to(pipeline.vae.device, pipeline.vae.dtype)).latent_dist
        means.append(_scale(pipeline, found.mean.float(), shift=True).cpu())
        stds.append(_scale(pipeline, found.std.float(), shift=False).cpu())
    return EncodedImages(torch.stack(means), torch.stack(stds), tuple(class_ids))


def _oriented(image: np.ndarray, way: int) -> np.ndarray:
    turned = np.rot90(image, way % 4)
    return np.ascontiguousarray(turned[:, ::-1] if way >= 4 else turned)


def _scale(pipeline: Pipeline, latents: torch.Tensor, shift: bool) -> torch.Tensor:
    """Raw latents as the UNet takes them: the inverse of ``bases.decode_latents``."""
    config = pipeline.vae.config
    if shift:
        latents = latents - (getattr(config, "shift_factor", None) or 0.0)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean and std:
        if shift:
            latents = latents - torch.tensor(mean).view(1, -1, 1, 1).to(latents)
        latents = latents / torch.tensor(std).view(1, -1, 1, 1).to(latents)
    return latents * config.scaling_factor
