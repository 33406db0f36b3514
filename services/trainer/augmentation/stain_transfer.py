"""Stain transfer: an image takes the colours of another image.

A few images of a class often share a slide or a scanner, so that a classifier can learn a
background instead of a cell. Stain transfer shows every class in the stains of all classes.

Colours are optical densities, in which dyes add up (Beer-Lambert; Ruifrok and Johnston 2001). Both
maps are linear and move colours as little as possible (Monge-Kantorovich; Pitié and Kokaram 2007):

- ``transfer_stain`` gives an image's pixels the mean (Reinhard et al. 2001) and the covariance of
  another's. Both depend on the area of the cell, so that backgrounds shift with it: good for
  augmentation, which should vary backgrounds.
- ``restain`` maps background to background and cell to cell: good for cells in the style of
  another laboratory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_BRIGHTEST = 256.0
_DENSEST = 6.0
"""Highest optical density (natural logarithm); anything denser is black."""
_LEAST_VARIANCE = 1e-4
"""Added to every variance, so that an image of one colour can be mapped to any other."""
_BACKGROUND = (0.05, 0.20)
"""Shares of the pixels, brightest first, between which all are background: the very brightest are
glare, and a large cell between its neighbours leaves no more."""
_STAINED, _DARK = 0.15, 0.98
"""Stained pixels exceed the background's density by this share of the darkest pixels' excess."""


@dataclass(frozen=True)
class Stains:
    """Mean (N, 3) and covariance (N, 3, 3) of optical densities."""

    mean: torch.Tensor
    covariance: torch.Tensor


@dataclass(frozen=True)
class CellStains:
    """Colours of images, separately for cells and background.

    Attributes:
        background: Mean optical density of the background, (N, 3).
        stained: Second moment (3, 3) of the densities above it, over stained pixels, (N, 3, 3).
    """

    background: torch.Tensor
    stained: torch.Tensor


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
    """Gives a ``share`` of the images randomly chosen colours from ``stains``.

    Args:
        images: (B, 3, H, W) in 0 to 1.
        stains: Colours to choose from; at least one.
        generator: CPU generator, on every device.
        share: 0 (samples nothing) to 1.
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


def cell_stains_of(images: torch.Tensor) -> CellStains:
    """Cell and background colours of images (N, 3, H, W)."""
    density = _density(images).double()
    num_pixels = density.shape[2]
    order = density.sum(1).argsort(1)
    first, last = (int(share * num_pixels) for share in _BACKGROUND)
    bright = order[:, None, first : max(last, first + 1)].expand(-1, 3, -1)
    background = density.gather(2, bright).mean(2)
    above = density - background[:, :, None]
    total = above.sum(1)
    darkest = total.gather(1, order[:, int(_DARK * num_pixels), None])
    stained = (total > _STAINED * darkest).double()
    moment = torch.einsum("nip,njp,np->nij", above, above, stained)
    moment = moment / stained.sum(1).clamp_min(1)[:, None, None]
    return CellStains(background, moment + _least(moment))


def restain(images: torch.Tensor, background: torch.Tensor, stained: torch.Tensor) -> torch.Tensor:
    """Maps images to other colours, background to background.

    Args:
        images: (B, 3, H, W) in 0 to 1.
        background: New mean density of each background (B, 3), as ``cell_stains_of`` gives it.
        stained: New second moment of each image's stained pixels (B, 3, 3), likewise.
    """
    own = cell_stains_of(images)
    return _moved(images, own.background, own.stained, background, stained)


def _recoloured(images: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    own = _stains(images)
    return _moved(images, own.mean, own.covariance, mean, covariance)


def _moved(
    images: torch.Tensor,
    origin: torch.Tensor,
    moment: torch.Tensor,
    new_origin: torch.Tensor,
    new_moment: torch.Tensor,
) -> torch.Tensor:
    """Moves densities from one origin and second moment to another."""
    root, inverse = _powers(moment)
    middle, _ = _powers(root @ new_moment @ root)
    matrix = (inverse @ middle @ inverse).to(images)
    density = _density(images) - origin.to(images)[:, :, None]
    moved = (matrix @ density + new_origin.to(images)[:, :, None]).clamp(0, _DENSEST)
    return ((torch.exp(-moved) * _BRIGHTEST - 1) / 255).clamp(0, 1).reshape(images.shape)


def _density(images: torch.Tensor) -> torch.Tensor:
    """Optical densities, (B, 3, H * W)."""
    return -torch.log((images.flatten(2) * 255 + 1) / _BRIGHTEST)


def _stains(images: torch.Tensor) -> Stains:
    density = _density(images).double()
    mean = density.mean(2)
    centred = density - mean[:, :, None]
    covariance = centred @ centred.transpose(1, 2) / density.shape[2]
    return Stains(mean, covariance + _least(covariance))


def _least(moment: torch.Tensor) -> torch.Tensor:
    return _LEAST_VARIANCE * torch.eye(3, dtype=moment.dtype, device=moment.device)


def _powers(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Square roots of symmetric positive matrices (B, 3, 3), and inverses."""
    values, vectors = torch.linalg.eigh(matrices)
    roots = values.clamp_min(1e-9).sqrt()
    return (
        (vectors * roots[:, None]) @ vectors.transpose(1, 2),
        (vectors / roots[:, None]) @ vectors.transpose(1, 2),
    )
