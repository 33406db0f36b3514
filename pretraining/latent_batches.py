"""Latents of the corpus, encoded once or in every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pretraining.corpus import Corpus
from pretraining.native_bfloat16 import native_bfloat16
from services.trainer.augmentation.augment import augment_geometry
from services.trainer.augmentation.settings import AugmentSettings

_ORIENTATIONS_ONLY = AugmentSettings(resample_share=0.0)
_REAL_VIEWS = AugmentSettings(resample_share=0.5, scale=0.15, translate=0.06)
"""Half of the real images are also rotated by any angle, zoomed and shifted: they are few."""


@torch.no_grad()
def encode(vae: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Scaled latents of images, (N, 3, 64, 64) in -1 to 1."""
    found = vae.encode(pixels)
    latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
    return latents.float() * vae.config.scaling_factor


def encode_corpus(
    vae: torch.nn.Module, corpus: Corpus, orientations: Sequence[int]
) -> torch.Tensor:
    """Scaled latents of every image in some of its eight orientations.

    Returns:
        float16 (N, len(orientations), C, 8, 8).
    """
    images = torch.from_numpy(corpus.images).permute(0, 3, 1, 2)
    channels = vae.config.latent_channels
    latents = torch.empty(len(images), len(orientations), channels, 8, 8, dtype=torch.float16)
    for place, orientation in enumerate(orientations):
        for start in range(0, len(images), 128):
            x = images[start : start + 128].float() / 127.5 - 1
            x = torch.rot90(x, orientation % 4, (2, 3))
            x = x.flip(3) if orientation >= 4 else x
            with native_bfloat16():
                latents[start : start + 128, place] = encode(vae, x)
    return latents


class Latents(Protocol):
    """Scaled latents of the corpus."""

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Latents of the images ``rows`` in random views, (B, C, 8, 8)."""
        ...


class KeptLatents:
    """Latents encoded once and kept in a file, for CPUs."""

    def __init__(
        self, vae: torch.nn.Module, corpus: Corpus, kept: Path, orientations: Sequence[int]
    ):
        """Encodes the corpus in some of the eight orientations, unless ``kept`` exists."""
        if not kept.exists():
            save_file({"latents": encode_corpus(vae, corpus, orientations)}, kept)
        self._latents = load_file(kept)["latents"]

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Latents of the images ``rows``, each in one of the kept orientations."""
        orientations = rng.integers(self._latents.shape[1], size=len(rows))
        return self._latents[rows, orientations].float()


class FreshLatents:
    """Latents encoded in every step, in unlimited views, for GPUs."""

    def __init__(self, vae: torch.nn.Module, corpus: Corpus, device: str, seed: int) -> None:
        """Moves the images to ``device``, where ``vae`` is."""
        self._vae, self._device, self._is_real = vae, device, corpus.is_real
        self._images = torch.from_numpy(corpus.images).to(device)
        self._generator = torch.Generator().manual_seed(seed)

    def minibatch(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Latents of the images ``rows`` in random orientations or views."""
        pixels = self._images[torch.from_numpy(rows).to(self._device)]
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        for views, chosen in (
            (_ORIENTATIONS_ONLY, ~self._is_real[rows]),
            (_REAL_VIEWS, self._is_real[rows]),
        ):
            if chosen.any():
                where = torch.from_numpy(np.flatnonzero(chosen)).to(self._device)
                pixels[where] = augment_geometry(pixels[where], self._generator, views).clamp(0, 1)
        return encode(self._vae, pixels * 2 - 1)
