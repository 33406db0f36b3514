"""Images made as sharp as examples, never sharper, and otherwise unchanged."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from services.trainer.augmentation.sharpness import match_sharpness


def grainy(num: int, seed: int, grain: float) -> torch.Tensor:
    """Broad discs on a pale field, with noise from pixel to pixel."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    radius = 12 + 6 * torch.rand(num, 1, 1, generator=generator)
    disc = torch.sigmoid((radius - torch.hypot(y - 32, x - 32)) / 4)
    noise = torch.randn(num, 3, 64, 64, generator=generator)
    return (0.8 - 0.4 * disc[:, None] + grain * noise).clamp(0, 1)


def detail(images: torch.Tensor) -> float:
    """Standard deviation of what a blur takes away."""
    return float((images - F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)).std())


def test_grain_falls_to_that_of_the_examples() -> None:
    images, examples = grainy(40, 1, 0.1), grainy(30, 2, 0.01)
    found = match_sharpness(images, examples)
    assert detail(images) > 5 * detail(examples)
    assert 0.8 < detail(found) / detail(examples) < 1.2
    assert torch.allclose(found.mean((2, 3)), images.mean((2, 3)), atol=2e-3), "colours stay"
    coarse = [F.avg_pool2d(each, 16) for each in (found, images)]
    assert (coarse[0] - coarse[1]).abs().max() < 0.03, "shapes stay"
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1


def test_nothing_is_sharpened() -> None:
    images, examples = grainy(40, 1, 0.01), grainy(30, 2, 0.1)
    assert torch.allclose(match_sharpness(images, examples), images, atol=2e-3)


def test_borders_do_not_shine_through_from_the_other_side() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[..., 32:] = 1.0
    blurred = F.avg_pool2d(images, 7, 1, 3, count_include_pad=False)
    found = match_sharpness(images, blurred)
    assert found[..., 0].max() < 0.05 and found[..., -1].min() > 0.95
