"""Augmentation changes what may differ between smears and nothing else."""

from __future__ import annotations

import pytest
import torch

from services.trainer.augmentation.augment import augment, augment_geometry, jitter_stain, mix
from services.trainer.augmentation.settings import AugmentSettings

STILL = AugmentSettings(
    scale=0, translate=0, brightness=0, contrast=0, saturation=0, stain=0, sharpness=0,
    resample_share=0,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_same_seed_gives_the_same_pixels_and_another_gives_others() -> None:
    images = torch.rand(4, 3, 16, 16)
    first = augment(images, generator(1), AugmentSettings())
    assert torch.equal(first, augment(images, generator(1), AugmentSettings()))
    assert not torch.allclose(first, augment(images, generator(2), AugmentSettings()))


def test_values_stay_in_range_and_shape_is_kept() -> None:
    images = torch.rand(8, 3, 20, 20).round()
    changed = augment(images, generator(), AugmentSettings())
    assert changed.shape == images.shape
    assert torch.isfinite(changed).all()
    assert changed.min() >= 0 and changed.max() <= 1


def test_quarter_turns_and_flips_only_move_pixels() -> None:
    images = torch.rand(32, 3, 8, 8)
    moved = augment_geometry(images, generator(), STILL)
    seen = set()
    for image, result in zip(images, moved, strict=True):
        variants = [
            torch.rot90(flipped, turns, (1, 2))
            for flipped in (image, image.flip(2))
            for turns in range(4)
        ]
        fits = [i for i, v in enumerate(variants) if torch.allclose(v, result, atol=1e-4)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert seen == set(range(8))


def test_rotation_brings_in_reflected_image_not_black() -> None:
    images = torch.full((16, 3, 24, 24), 0.8)
    settings = AugmentSettings(resample_share=1.0, translate=0.3)
    assert augment_geometry(images, generator(), settings).min() > 0.79


def test_stain_jitter_of_zero_is_nothing_and_white_stays_nearly_white() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert jitter_stain(images, generator(), 0.0) is images
    white = jitter_stain(torch.ones(16, 3, 8, 8), generator(), 0.1)
    assert white.min() > 0.9
    cell = torch.tensor([0.4, 0.2, 0.6]).view(1, 3, 1, 1).expand(16, 3, 8, 8)
    changed = jitter_stain(cell, generator(), 0.1)
    assert 0.005 < (changed - cell).abs().mean() < 0.2


@pytest.mark.parametrize("seed", range(6))
def test_mix_keeps_targets_probabilities_and_pixels_accounted_for(seed: int) -> None:
    images = torch.stack([torch.zeros(3, 10, 10), torch.ones(3, 10, 10)])
    targets = torch.eye(2)
    mixed, soft = mix(images, targets, generator(seed), 1.0)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft[:, 1], atol=1e-5, rtol=0)
    assert mix(images, targets, generator(seed), 0.0)[0] is images
