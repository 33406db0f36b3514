"""Simple pictures of cells, told apart by a seed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def cell(seed: int, size: int = 32, nucleus: float = 0.3) -> np.ndarray:
    """A noisy light field with a dark disc, ``nucleus`` times the size."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((size, size)) - (size - 1) / 2
    disc = np.hypot(row, column) < nucleus * size / 2
    image = np.where(disc[..., None], (90, 60, 150), (230, 220, 225))
    coarse = rng.integers(-60, 60, (4, 4, 1)).repeat(size // 4, 0).repeat(size // 4, 1)
    return np.clip(image + coarse + rng.integers(-9, 9, image.shape), 0, 255).astype(np.uint8)


def png(seed: int, size: int = 32, nucleus: float = 0.3) -> bytes:
    """The PNG file of ``cell``."""
    buffer = io.BytesIO()
    Image.fromarray(cell(seed, size, nucleus)).save(buffer, "PNG")
    return buffer.getvalue()
