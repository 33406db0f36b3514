"""Random changes of a minibatch that keep the class of each cell."""

from __future__ import annotations

import numpy as np
import torch


def augment(images: np.ndarray, rng: np.random.Generator, color: float) -> torch.Tensor:
    """Changes orientation and colour at random.

    Args:
        images: uint8 (B, H, W, 3).
        rng: Source of the random values.
        color: Standard deviation of the colour gains; 0: none.

    Returns:
        float32 (B, 3, H, W) in -1 to 1.
    """
    oriented = np.empty_like(images)
    for i, image in enumerate(images):
        image = np.rot90(image, rng.integers(4))
        oriented[i] = image[:, ::-1] if rng.random() < 0.5 else image
    x = torch.from_numpy(oriented).permute(0, 3, 1, 2).float() / 255
    if color:
        n = len(images)
        gain = torch.from_numpy(rng.normal(1, color, (n, 3, 1, 1))).float()
        gamma = torch.from_numpy(np.exp(rng.normal(0, color, (n, 1, 1, 1)))).float()
        x = (x.clamp_min(1e-3) ** gamma * gain).clamp(0, 1)
    return x * 2 - 1


def zoom_rotate_and_shift(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Zooms, rotates and shifts images (B, 3, H, W) at random."""
    n = len(x)
    angle = torch.from_numpy(rng.uniform(-np.pi, np.pi, n)).float()
    zoom = torch.from_numpy(rng.uniform(0.8, 1.2, n)).float()
    shift = torch.from_numpy(rng.uniform(-0.1, 0.1, (n, 2))).float()
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def restain(x: torch.Tensor, rng: np.random.Generator, amount: float) -> torch.Tensor:
    """Changes stains at random by mixing the channels' absorption.

    The images (B, 3, H, W) lie in -1 to 1. Every image gets another mixing
    matrix: the unit matrix plus normal noise of this ``amount``.
    """
    mixing = np.eye(3) + rng.normal(0, amount, (len(x), 3, 3))
    absorbed = torch.einsum("bchw,bcd->bdhw", (1 - x) / 2, torch.from_numpy(mixing).float())
    return 1 - 2 * absorbed.clamp(0, 1)
