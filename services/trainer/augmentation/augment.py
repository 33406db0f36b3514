"""Augmentation of cell images: orientation, colour, sharpness, MixUp and CutMix.

Every function takes a minibatch (B, 3, H, W) of floats in 0 to 1. Random values come from the
generator passed in, so a training step is a function of its seed.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from services.trainer.augmentation.settings import AugmentSettings

# Optical density of haematoxylin, eosin and DAB in R, G, B (Ruifrok and Johnston 2001), the
# basis of HED stain jitter (Tellez et al. 2018).
_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def augment(
    images: torch.Tensor, generator: torch.Generator, settings: AugmentSettings
) -> torch.Tensor:
    """Changes geometry, colour and sharpness of every image at random."""
    images = augment_geometry(images, generator, settings)
    images = jitter_stain(images, generator, settings.stain)
    images = jitter_color(images, generator, settings)
    return jitter_sharpness(images, generator, settings.sharpness).clamp(0, 1)


def _uniform(
    n: int, low: float, high: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """n random values, sampled on the CPU for reproducibility across devices."""
    return (torch.rand(n, generator=generator) * (high - low) + low).to(device)


def augment_geometry(
    images: torch.Tensor, generator: torch.Generator, settings: AugmentSettings
) -> torch.Tensor:
    """Flips, rotates, zooms and shifts; the outside is filled by reflection."""
    n, device = len(images), images.device
    free = _uniform(n, 0, 1, generator, device) < settings.resample_share
    angle = _uniform(n, 0, 2 * math.pi, generator, device)
    angle = torch.where(free, angle, torch.round(angle / (math.pi / 2)) * (math.pi / 2))
    zoom = torch.exp(_uniform(n, -settings.scale, settings.scale, generator, device) * free)
    shift = 2 * settings.translate
    dx = _uniform(n, -shift, shift, generator, device) * free
    dy = _uniform(n, -shift, shift, generator, device) * free
    flip = torch.where(_uniform(n, 0, 1, generator, device) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    matrix = torch.stack(
        [torch.stack([cos * flip, -sin, dx], -1), torch.stack([sin * flip, cos, dy], -1)], 1
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def jitter_stain(images: torch.Tensor, generator: torch.Generator, amount: float) -> torch.Tensor:
    """Scales each stain's density, as between two stainings of one slide."""
    if amount == 0:
        return images
    n, device = len(images), images.device
    to_rgb = _HED.to(device)
    density = -torch.log10(images.clamp_min(1e-3))
    stains = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(to_rgb))
    gain = _uniform(n * 3, 1 - amount, 1 + amount, generator, device).view(n, 3, 1, 1)
    offset = _uniform(n * 3, -amount / 10, amount / 10, generator, device).view(n, 3, 1, 1)
    changed = torch.einsum("bshw,sc->bchw", stains * gain + offset, to_rgb)
    return torch.pow(10.0, -changed).clamp(0, 1)


def jitter_color(
    images: torch.Tensor, generator: torch.Generator, settings: AugmentSettings
) -> torch.Tensor:
    """Changes brightness, contrast and saturation, as between two cameras."""
    n, device = len(images), images.device

    def gain(amount: float) -> torch.Tensor:
        return _uniform(n, 1 - amount, 1 + amount, generator, device).view(n, 1, 1, 1)

    images = images * gain(settings.brightness)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * gain(settings.contrast) + mean
    grey = images.mean(dim=1, keepdim=True)
    return (images - grey) * gain(settings.saturation) + grey


def jitter_sharpness(
    images: torch.Tensor, generator: torch.Generator, amount: float
) -> torch.Tensor:
    """Blurs or sharpens a little, as the focus does."""
    if amount == 0:
        return images
    weight = _uniform(len(images), -amount, amount, generator, images.device).view(-1, 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return images + weight * (images - blurred)


def mix(
    images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies MixUp or CutMix to a ``share`` of the minibatches.

    Zhang et al. 2018; Yun et al. 2019.

    Args:
        images: (B, 3, H, W).
        targets: Class probabilities (B, classes), mixed like the images.
        generator: CPU generator.
        share: Share of minibatches that are mixed, 0 to 1.
    """
    if share == 0 or float(torch.rand(1, generator=generator)) >= share:
        return images, targets
    order = torch.randperm(len(images), generator=generator).to(images.device)
    keep = float(torch.rand(1, generator=generator))
    if float(torch.rand(1, generator=generator)) < 0.5:
        keep = max(keep, 1 - keep)
        mixed = keep * images + (1 - keep) * images[order]
    else:
        height, width = images.shape[-2:]
        cut_h, cut_w = (round(size * math.sqrt(1 - keep)) for size in (height, width))
        top = int(torch.randint(height - cut_h + 1, (1,), generator=generator))
        left = int(torch.randint(width - cut_w + 1, (1,), generator=generator))
        mixed = images.clone()
        mixed[..., top : top + cut_h, left : left + cut_w] = images[order][
            ..., top : top + cut_h, left : left + cut_w
        ]
        keep = 1 - cut_h * cut_w / (height * width)
    return mixed, keep * targets + (1 - keep) * targets[order]
