"""An image takes another's colours and keeps its shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from services.trainer.augmentation.stain_transfer import (
    cell_stains_of,
    restain,
    stains_of,
    transfer_stain,
)

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(seed: int, num: int = 4, low: int = 60, high: int = 200) -> np.ndarray:
    """Blocks of colour, so that a transfer has something to keep."""
    rng = np.random.default_rng(seed)
    small = rng.integers(low, high, (num, 8, 8, 3), dtype=np.uint8)
    return small.repeat(4, 1).repeat(4, 2)


def as_batch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def as_images(batch: torch.Tensor) -> np.ndarray:
    return (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_image_gets_mean_and_covariance_of_the_other() -> None:
    yellow = cells(1, 1, 90, 160)
    yellow[..., 2] //= 2
    moved = transfer_stain(as_batch(cells(0)), stains_of(yellow, CPU), generator(), 1.0)
    got, wanted = stains_of(as_images(moved), CPU), stains_of(yellow, CPU)
    assert torch.allclose(got.mean, wanted.mean.expand(4, 3), atol=0.01)
    assert torch.allclose(got.covariance, wanted.covariance.expand(4, 3, 3), atol=0.01)


def test_own_colours_change_nothing() -> None:
    image = cells(2, 1)
    moved = transfer_stain(as_batch(image), stains_of(image, CPU), generator(), 1.0)
    assert torch.allclose(moved, as_batch(image), atol=1e-3)


def test_share_of_images_changes_and_the_seed_decides_which() -> None:
    images, stains = as_batch(cells(3, 200)), stains_of(cells(4, 3, 100, 250), CPU)
    first = transfer_stain(images, stains, generator(1), 0.3)
    assert torch.equal(first, transfer_stain(images, stains, generator(1), 0.3))
    changed = (first != images).flatten(1).any(1)
    assert 40 <= int(changed.sum()) <= 80
    assert not torch.equal(first, transfer_stain(images, stains, generator(2), 0.3))


def test_every_one_of_the_stains_is_taken() -> None:
    pool = np.concatenate([cells(5, 1, 20, 60), cells(6, 1, 120, 160), cells(7, 1, 200, 250)])
    moved = transfer_stain(as_batch(cells(8, 60)), stains_of(pool, CPU), generator(), 1.0)
    means = stains_of(as_images(moved), CPU).mean.mean(1)
    wanted = stains_of(pool, CPU).mean.mean(1)
    nearest = (means[:, None] - wanted).abs().argmin(1)
    assert set(nearest.tolist()) == {0, 1, 2}


def test_share_of_zero_changes_nothing_and_samples_nothing() -> None:
    images, rng = as_batch(cells(9)), generator(3)
    before = rng.get_state()
    assert transfer_stain(images, stains_of(cells(10), CPU), rng, 0.0) is images
    assert torch.equal(before, rng.get_state())


@pytest.mark.parametrize("value", [0, 255])
def test_blank_images_stay_finite_on_either_side(value: int) -> None:
    blank = np.full((2, 16, 16, 3), value, np.uint8)
    for images, pool in ((cells(11, 2), blank), (blank, cells(12, 2))):
        moved = transfer_stain(as_batch(images), stains_of(pool, CPU), generator(), 1.0)
        assert torch.isfinite(moved).all()
        assert moved.min() >= 0 and moved.max() <= 1


def disc(radius: int, cell: tuple[int, int, int], background: tuple[int, int, int]) -> np.ndarray:
    """One image (1, 32, 32, 3): a half-dark cell on a background."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(rows, columns) < radius
    image = np.full((32, 32, 3), background, np.uint8)
    image[inside] = cell
    image[inside & (rows > 0)] = np.array(cell) // 2
    return image[None]


@pytest.mark.parametrize("radius", [7, 14])
def test_background_goes_to_background_however_large_the_cell_is(radius: int) -> None:
    image = as_batch(disc(radius, (150, 90, 190), (235, 230, 240)))
    example = as_batch(disc(10, (180, 100, 120), (255, 225, 200)))
    wanted = cell_stains_of(example)
    moved = restain(image, wanted.background, wanted.stained)
    assert (moved[0, :, 0, 0] - example[0, :, 0, 0]).abs().max() < 0.01
    got = cell_stains_of(moved)
    assert torch.allclose(got.stained, wanted.stained, rtol=0.05, atol=0.02)
    # The other map moves the background with the size of the cell.
    other = transfer_stain(image, stains_of(as_images(example), CPU), generator(), 1.0)
    assert (other[0, :, 0, 0] - example[0, :, 0, 0]).abs().max() > 0.02


def test_restaining_with_own_colours_changes_nothing() -> None:
    image = as_batch(disc(9, (150, 90, 190), (235, 230, 240)))
    own = cell_stains_of(image)
    assert torch.allclose(restain(image, own.background, own.stained), image, atol=2e-3)


@pytest.mark.parametrize("value", [0, 255])
def test_restaining_blank_images_stays_finite_on_either_side(value: int) -> None:
    blank = as_batch(np.full((2, 16, 16, 3), value, np.uint8))
    for images, pool in ((as_batch(cells(11, 2)), blank), (blank, as_batch(cells(12, 2)))):
        wanted = cell_stains_of(pool)
        moved = restain(images, wanted.background, wanted.stained)
        assert torch.isfinite(moved).all()
        assert moved.min() >= 0 and moved.max() <= 1
