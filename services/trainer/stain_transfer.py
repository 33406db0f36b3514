"""Stain transfer: an image takes the colours of another image, and keeps its shapes.

A few images of a class often share a slide or a scanner, so that a classifier can learn a
background instead of a cell. Here every class is seen in the stains of all classes.

Colours are optical densities (Beer-Lambert: dyes add up there; Ruifrok and Johnston 2001). The map
is the linear one that gives an image's pixels the mean (Reinhard et al. 2001) and the covariance of
another's, and moves them as little as can be (Monge-Kantorovich; Pitié and Kokaram 2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_BRIGHTEST = 256.0
_DENSEST = 6.0
"""Optical density, natural logarithm: beyond it is black."""
_LEAST_VARIANCE = 1e-4
"""Added to every variance, so that an image of one colour has a way to any other."""


@dataclass(frozen=True)
class Stains:
    """Colours of images: mean (N, 3) and covariance (N, 3, 3) of their optical densities."""

    mean: torch.Tensor
    covariance: torch.Tensor


def stains_of(images: np.ndarray, device: torch.device) -> Stains:
    """Colours of images, uint8 (N, S, S, 3)."""
    parts = [
        _stains(torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255)
        for image in images
    ]
    return Stains(torch.cat([p.mean for p in parts]), torch.cat([p.covariance for p in parts]))


def transfer_stain(
    images: torch.Tensor, stains: Stains, generator: torch.Generator, share: float
) -> torch.Tensor:
    """A ``share`` of the images takes colours that are drawn from ``stains``, each as likely.

    Args:
        images: (B, 3, H, W) in 0 to 1.
        stains: Whose colours; at least one.
        generator: On the CPU, whatever the device.
        share: 0 (draws nothing) to 1.
    """
    if share == 0:
        return images
    chosen = torch.rand(len(images), generator=generator) < share
    wanted = torch.randint(len(stains.mean), (len(images),), generator=generator)
    if not chosen.any():
        return images
    rows = chosen.to(images.device)
    target = wanted[chosen].to(images.device)
    changed = images.clone()
    changed[rows] = _recoloured(images[rows], stains.mean[target], stains.covariance[target])
    return changed


def _recoloured(images: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    own = _stains(images)
    root, inverse = _powers(own.covariance)
    middle, _ = _powers(root @ covariance @ root)
    matrix = (inverse @ middle @ inverse).to(images)
    density = _density(images) - own.mean.to(images)[:, :, None]
    moved = (matrix @ density + mean.to(images)[:, :, None]).clamp(0, _DENSEST)
    return ((torch.exp(-moved) * _BRIGHTEST - 1) / 255).clamp(0, 1).reshape(images.shape)


def _density(images: torch.Tensor) -> torch.Tensor:
    """Optical densities, (B, 3, H * W)."""
    return -torch.log((images.flatten(2) * 255 + 1) / _BRIGHTEST)


def _stains(images: torch.Tensor) -> Stains:
    density = _density(images).double()
    mean = density.mean(2)
    centred = density - mean[:, :, None]
    covariance = centred @ centred.transpose(1, 2) / density.shape[2]
    least = _LEAST_VARIANCE * torch.eye(3, dtype=covariance.dtype, device=covariance.device)
    return Stains(mean, covariance + least)


def _powers(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Square roots of symmetric positive matrices (B, 3, 3), and the roots' inverses."""
    values, vectors = torch.linalg.eigh(matrices)
    roots = values.clamp_min(1e-9).sqrt()
    return (
        (vectors * roots[:, None]) @ vectors.transpose(1, 2),
        (vectors / roots[:, None]) @ vectors.transpose(1, 2),
    )
