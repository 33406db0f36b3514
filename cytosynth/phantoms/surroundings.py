"""What lies around the white cell: red cells and platelets."""

from __future__ import annotations

import numpy as np

from cytosynth.phantoms.fields import Field, frame_axes, smooth_noise, soft_inside, spots
from cytosynth.phantoms.laboratory import Laboratory

_EDGE = 0.006  # softness of a red cell's outline, frame widths


def place_red_cells(
    rng: np.random.Generator, cell_radius: float, laboratory: Laboratory
) -> list[tuple[float, float, float]]:
    """Centres and radii (x, y, r) of red cells, frame widths."""
    radius = laboratory.red_cell_diameter / 2
    wanted = int(rng.binomial(20, np.clip(laboratory.red_cell_density, 0, 1)))
    placed: list[tuple[float, float, float]] = []
    candidates = rng.uniform(-0.5 - radius, 0.5 + radius, (60, 2))
    sizes = radius * np.clip(rng.normal(1.0, 0.08, 60), 0.75, 1.25)
    closeness = rng.uniform(0.75, 1.15, 60)
    for (x, y), size, close in zip(candidates, sizes, closeness, strict=True):
        if len(placed) >= wanted:
            break
        if np.hypot(x, y) < cell_radius + size * 0.93:
            continue
        if all(np.hypot(x - px, y - py) > (size + pr) * close for px, py, pr in placed):
            placed.append((float(x), float(y), float(size)))
    return placed


def red_cell_layer(
    rng: np.random.Generator, grid_size: int, cells: list[tuple[float, float, float]], pallor: float
) -> Field:
    """Haemoglobin concentration (S, S) of the placed red cells."""
    layer = np.zeros((grid_size, grid_size), dtype=np.float32)
    x, y = frame_axes(grid_size)
    warp_x = 0.010 * smooth_noise(rng, grid_size, 6)
    warp_y = 0.010 * smooth_noise(rng, grid_size, 6)
    for cx, cy, radius in cells:
        angle, squash = rng.uniform(0, np.pi), rng.uniform(0.86, 1.0)
        cell_pallor = np.clip(pallor * rng.uniform(0.6, 1.2), 0, 1)
        thickness, pallor_size = rng.uniform(0.8, 1.15), rng.uniform(0.35, 0.60)
        first_row, last_row = _window(cy, radius, grid_size)
        first_col, last_col = _window(cx, radius, grid_size)
        if first_row >= last_row or first_col >= last_col:
            continue
        window = np.s_[first_row:last_row, first_col:last_col]
        dx = x[:, first_col:last_col] + warp_x[window] - cx
        dy = y[first_row:last_row] + warp_y[window] - cy
        u = np.cos(angle) * dx + np.sin(angle) * dy
        v = (np.cos(angle) * dy - np.sin(angle) * dx) / squash
        rho = np.sqrt(u * u + v * v) / radius
        profile = 1.0 - 0.92 * cell_pallor * np.exp(-((rho / pallor_size) ** 3))
        profile = profile * (1.0 + 0.14 * np.exp(-(((rho - 0.8) / 0.15) ** 2)))
        body = soft_inside((rho - 1.0) * radius, _EDGE) * profile * thickness
        layer[window] = np.maximum(layer[window], body) + 0.35 * np.minimum(layer[window], body)
    return layer


def _window(centre: float, radius: float, grid_size: int) -> tuple[int, int]:
    low = int((centre - radius * 1.25 + 0.5) * grid_size)
    high = int((centre + radius * 1.25 + 0.5) * grid_size) + 1
    return max(low, 0), min(high, grid_size)


def platelet_layer(
    rng: np.random.Generator, grid_size: int, cell_radius: float, red_cell_diameter: float
) -> tuple[Field, Field, int]:
    """Body and granule coverage (S, S) of platelets, and their number."""
    count = int(rng.choice(3, p=[0.70, 0.24, 0.06]))
    angles = rng.uniform(0, 2 * np.pi, count)
    radius = red_cell_diameter * rng.uniform(0.12, 0.2)
    reach = cell_radius + radius + rng.uniform(0.02, 0.2, count)
    cx, cy = reach * np.cos(angles), reach * np.sin(angles)
    if count == 0:
        return (
            np.zeros((grid_size, grid_size), np.float32),
            np.zeros((grid_size, grid_size), np.float32),
            0,
        )
    body = spots(cx, cy, np.ones(count), radius, grid_size)
    jitter = rng.normal(0, radius * 0.4, (2, 12))
    which = np.arange(12) % count
    dots = spots(
        cx[which] + jitter[0],
        cy[which] + jitter[1],
        np.ones(12),
        red_cell_diameter * 0.03,
        grid_size,
    )
    return body, dots * body, count
