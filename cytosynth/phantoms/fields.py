"""Scalar fields on the frame: coordinates, smooth noise, spots, soft edges.

A field is an (S, S) float32 array. Coordinates are in frame widths from the centre of the square
frame, x to the right and y down. Thus the same random values give the same picture at any
resolution.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

Field = np.ndarray


@lru_cache(maxsize=16)
def frame_axes(grid_size: int) -> tuple[Field, Field]:
    """Pixel-centre coordinates x (1, S) and y (S, 1).

    The unit is the frame width; values lie in [-0.5, 0.5].
    """
    axis = ((np.arange(grid_size, dtype=np.float32) + 0.5) / grid_size - 0.5).astype(np.float32)
    return axis[None, :], axis[:, None]


@lru_cache(maxsize=512)
def _spline_taps(grid_size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """First knot (S,) and cubic B-spline weights (4, S) of every pixel.

    The weights are scaled so that unit-variance knots give unit variance.
    """
    position = (np.arange(grid_size) + 0.5) / grid_size * cells
    index = np.minimum(position.astype(int), cells - 1)
    t = position - index
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    )
    return index, (weights / np.sqrt((weights**2).sum(axis=0).mean())).astype(np.float32)


def smooth_noise(rng: np.random.Generator, grid_size: int, cells: float) -> Field:
    """Unit-variance noise with about ``cells`` features across the frame.

    Four taps an axis, not a matrix product: small products wake every BLAS thread for nothing.
    """
    count = int(np.clip(round(cells), 1, 96))
    index, weights = _spline_taps(grid_size, count)
    knots = rng.standard_normal((count + 3, count + 3), dtype=np.float32)
    rows = sum(weights[tap][:, None] * knots[index + tap] for tap in range(4))
    columns = np.ascontiguousarray(rows.T)
    return np.ascontiguousarray(
        sum(weights[tap][:, None] * columns[index + tap] for tap in range(4)).T
    )


def soft_inside(signed_distance: Field, edge: float) -> Field:
    """Coverage 0..1 of the region where ``signed_distance`` < 0.

    ``edge`` is the softness in frame widths.
    """
    return 0.5 - 0.5 * np.tanh(signed_distance * np.float32(0.5 / edge))


def smooth_step(field: Field) -> Field:
    """Logistic curve, 0..1."""
    return 0.5 + 0.5 * np.tanh(0.5 * field)


def spots(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, radius: float, grid_size: int
) -> Field:
    """Coverage 0..1 of soft discs.

    The centres ``x`` and ``y``, each (n,), and ``radius`` are in frame widths.
    """
    impulses = np.zeros((grid_size + 1, grid_size + 1), dtype=np.float32)
    column = np.clip((x + 0.5) * grid_size - 0.5, 0, grid_size - 1.001)
    row = np.clip((y + 0.5) * grid_size - 0.5, 0, grid_size - 1.001)
    left, top = column.astype(int), row.astype(int)
    right_share, bottom_share = column - left, row - top
    np.add.at(impulses, (top, left), weights * (1 - right_share) * (1 - bottom_share))
    np.add.at(impulses, (top, left + 1), weights * right_share * (1 - bottom_share))
    np.add.at(impulses, (top + 1, left), weights * (1 - right_share) * bottom_share)
    np.add.at(impulses, (top + 1, left + 1), weights * right_share * bottom_share)
    sigma = max(radius * grid_size * 0.6, 0.35)
    blurred = gaussian_filter(
        impulses[:grid_size, :grid_size], sigma, mode="constant", truncate=3.0
    )
    peak = 1.0 / (2 * np.pi * sigma**2)
    # A granule thinner than a pixel must fade rather than stay full-strength.
    strength = 2.2 * min(1.0, (radius * grid_size * 0.6 / sigma) ** 2)
    return 1.0 - np.exp(-np.float32(strength / peak) * blurred)
