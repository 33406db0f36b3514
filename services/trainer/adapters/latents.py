"""Encodes images once, so that training reads latents only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from services.trainer.augmentation.augment import augment_geometry
from services.trainer.augmentation.settings import AugmentSettings

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline
    from services.trainer.compute.training_run import ProgressFn

PHASE_ENCODE = "encoding images"
MAX_ENCODED = 16_384
"""Encoded images kept in memory, at most; beyond, fewer orientations are encoded."""
MAX_RANDOM = 2_048
"""Encoded images, at most, where some views are random: with more images, eight orientations are
variety enough."""
NUM_ORIENTATIONS = 8
_RANDOM_VIEW = AugmentSettings(resample_share=1.0, scale=0.15, translate=0.06)


@dataclass(frozen=True)
class EncodedImages:
    """Latent distributions, scaled as the UNet takes them.

    Attributes:
        mean, std: float32 (N, V, C, h, w) for N images in V views.
        class_ids: N class ids.
    """

    mean: torch.Tensor
    std: torch.Tensor
    class_ids: tuple[str, ...]

    def rows_of(self, class_id: str) -> list[int]:
        """Indices of the images of the class."""
        return [row for row, each in enumerate(self.class_ids) if each == class_id]

    def sample(self, class_id: str, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (C, h, w) of a random view."""
        row = int(rng.choice(self.rows_of(class_id)))
        view = int(rng.integers(self.mean.shape[1]))
        return self.mean[row, view], self.std[row, view]


@torch.no_grad()
def encode_images(
    pipeline: Pipeline,
    images: np.ndarray,
    class_ids: Sequence[str],
    progress: ProgressFn,
    num_views: int = NUM_ORIENTATIONS,
    seed: int = 0,
) -> EncodedImages:
    """Latent distributions of all images in several views.

    The first view is upright, up to eight are the orientations. Further ones are rotated by any
    angle, zoomed and shifted at random, with ``seed``. Many images get fewer views than
    ``num_views`` (``MAX_ENCODED``, ``MAX_RANDOM``).
    """
    num_views = _affordable(num_views, len(images))
    num_random = max(0, num_views - NUM_ORIENTATIONS)
    generator = torch.Generator().manual_seed(seed)
    means, stds = [], []
    for index, image in enumerate(images):
        progress(PHASE_ENCODE, index, len(images), {})
        orientations = range(min(num_views, NUM_ORIENTATIONS))
        oriented = np.stack([_oriented(image, each) for each in orientations])
        pixels = torch.from_numpy(oriented).permute(0, 3, 1, 2).float() / 255
        if num_random:
            repeated = pixels[:1].expand(num_random, -1, -1, -1)
            pixels = torch.cat(
                [pixels, augment_geometry(repeated, generator, _RANDOM_VIEW).clamp(0, 1)]
            )
        parts = [_encode(pipeline, some) for some in pixels.split(NUM_ORIENTATIONS)]
        means.append(torch.cat([mean for mean, _ in parts]))
        stds.append(torch.cat([std for _, std in parts]))
    return EncodedImages(torch.stack(means), torch.stack(stds), tuple(class_ids))


def _encode(pipeline: Pipeline, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latent mean and deviation of pixels.

    Pixels are (V, 3, S, S) in 0 to 1.
    """
    signed = pixels.to(pipeline.vae.device, pipeline.vae.dtype) * 2 - 1
    found = pipeline.vae.encode(signed)
    if not hasattr(found, "latent_dist"):  # an autoencoder without noise, as AutoencoderDC
        mean = _scale(pipeline, found.latent.float(), shift=True).cpu()
        return mean, torch.zeros_like(mean)
    mean = _scale(pipeline, found.latent_dist.mean.float(), shift=True)
    return mean.cpu(), _scale(pipeline, found.latent_dist.std.float(), shift=False).cpu()


def _affordable(num_views: int, num_images: int) -> int:
    if num_views > NUM_ORIENTATIONS:
        num_views = max(NUM_ORIENTATIONS, min(num_views, MAX_RANDOM // num_images))
    while num_views > 1 and num_images * num_views > MAX_ENCODED:
        num_views //= 2
    return num_views


def _oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    rotated = np.rot90(image, orientation % 4)
    return np.ascontiguousarray(rotated[:, ::-1] if orientation >= 4 else rotated)


def _scale(pipeline: Pipeline, latents: torch.Tensor, shift: bool) -> torch.Tensor:
    """Raw latents as the UNet takes them: the inverse of ``pipelines.decode_latents``."""
    config = pipeline.vae.config
    if shift:
        latents = latents - (getattr(config, "shift_factor", None) or 0.0)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean and std:
        if shift:
            latents = latents - torch.tensor(mean).view(1, -1, 1, 1).to(latents)
        latents = latents / torch.tensor(std).view(1, -1, 1, 1).to(latents)
    return latents * config.scaling_factor
