"""Outline and nucleus of one cell, sampled from a :class:`CellType`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cytosynth.phantoms.fields import Field, frame_axes, smooth_noise
from cytosynth.phantoms.morphology import CellType, sample_value
from cytosynth.phantoms.nuclei import NUCLEUS_KINDS, Outline, Sampler

Key = TypeVar("Key")
_COARSE_SIDE = 48  # grid on which the nucleus is scaled to the wanted area


@dataclass(frozen=True)
class Anatomy:
    """Geometry of a cell on an (S, S) grid, in frame widths.

    Distances are negative inside.
    """

    cell_distance: Field
    nucleus_distance: Field
    cell_radius: float
    cell_centre: tuple[float, float]
    nucleus_centre: tuple[float, float]
    nucleus_kind: str
    lobes: int


def _pick(rng: np.random.Generator, weights: dict[Key, float]) -> Key:
    keys = list(weights)
    shares = np.array([weights[key] for key in keys], dtype=float)
    return keys[int(rng.choice(len(keys), p=shares / shares.sum()))]


class _CellOutline:
    """Radial contour: a circle undulated by low harmonics, with pointed corners."""

    def __init__(
        self,
        rng: np.random.Generator,
        centre: tuple[float, float],
        radius: float,
        irregularity: float,
        corners: int,
    ) -> None:
        self.centre, self.radius = centre, radius
        angle = self._angle = np.linspace(-np.pi, np.pi, 257)
        contour = np.ones_like(angle)
        for order in range(2, 8):
            amplitude = irregularity * 3.2 * abs(rng.normal()) / order**1.45
            contour += amplitude * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        ragged = rng.normal(0, 1, 40)  # short fringe, only where the membrane is restless
        contour += (
            0.14
            * irregularity
            * np.interp(angle, np.linspace(-np.pi, np.pi, 41), np.append(ragged, ragged[0]))
        )
        for _ in range(corners):
            offset = np.cos(angle - rng.uniform(0, 2 * np.pi)) - 1.0
            contour += rng.uniform(0.08, 0.32) * np.exp(offset / rng.uniform(0.03, 0.12))
        self._contour = radius * contour / np.sqrt(np.mean(contour[:-1] ** 2))  # area of the circle

    def distance(self, grid_size: int) -> Field:
        """Signed distance (S, S), approximate away from the contour."""
        x, y = frame_axes(grid_size)
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        angle = np.arctan2(dy, dx)
        contour = np.interp(angle.ravel(), self._angle, self._contour).reshape(grid_size, grid_size)
        return (np.sqrt(dx * dx + dy * dy) - contour).astype(np.float32)


def _fitting_shape(
    rng: np.random.Generator, sampler: Sampler, lobes: int, nc_ratio: float
) -> tuple[Outline, float]:
    """Sampled outline of the wanted area, and its reach from its origin.

    A long chain of lobes can stick out of the cell; then the most compact of a few samples is used.
    """
    axis = np.linspace(-1.6, 1.6, 40, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    distance_from_origin = np.hypot(x, y)
    candidates: list[tuple[float, Outline, float]] = []
    for _ in range(6):
        shape = sampler(rng, lobes)
        inside = shape(x, y) < 0
        extent = float(distance_from_origin[inside].max())
        area = np.count_nonzero(inside) * float(axis[1] - axis[0]) ** 2
        reach = extent * np.sqrt(nc_ratio * np.pi / area)  # in cell radii
        candidates.append((reach, shape, extent))
        if reach < 0.94:
            break
    _, shape, extent = min(candidates, key=lambda candidate: candidate[0])
    return shape, extent


def sample_anatomy(
    rng: np.random.Generator, cell_type: CellType, red_cell_diameter: float, grid_size: int
) -> Anatomy:
    """Sample one cell, its diameter at most 0.9 of the frame."""
    radius = min(sample_value(rng, cell_type.diameter) * red_cell_diameter, 0.9) / 2
    centre = (float(rng.normal(0, 0.018)), float(rng.normal(0, 0.018)))
    low, high = cell_type.corners
    corners = int(rng.integers(low, high + 1))
    outline = _CellOutline(rng, centre, radius, sample_value(rng, cell_type.irregularity), corners)
    kind = _pick(rng, cell_type.nucleus_kinds)
    sampler, lobes = NUCLEUS_KINDS[kind]
    if kind == "segmented" and cell_type.lobes:
        lobes = int(_pick(rng, cell_type.lobes))
    target = sample_value(rng, cell_type.nc_ratio)
    shape, extent = _fitting_shape(rng, sampler, lobes, target)
    rotation, direction = rng.uniform(0, 2 * np.pi, 2)
    eccentricity = sample_value(rng, cell_type.eccentricity)
    warp_seed = int(rng.integers(2**32))
    warp = 0.12 if cell_type.smudge else 0.035
    margin = -1.0 if cell_type.smudge else 0.035 * radius

    def nucleus_distance(points: int, scale: float, cell_distance: Field) -> Field:
        warp_rng = np.random.default_rng(warp_seed)
        x, y = frame_axes(points)
        room = max(radius * 0.96 - scale * extent, 0.0) * eccentricity
        dx = (x - centre[0] - room * np.cos(direction)) / scale + warp * smooth_noise(
            warp_rng, points, 9
        )
        dy = (y - centre[1] - room * np.sin(direction)) / scale + warp * smooth_noise(
            warp_rng, points, 9
        )
        cos, sin = np.float32(np.cos(rotation)), np.float32(np.sin(rotation))
        distance = shape(cos * dx + sin * dy, cos * dy - sin * dx) * scale
        if cell_type.smudge:  # frayed edge
            distance = distance + 0.02 * smooth_noise(warp_rng, points, 22)
        return np.maximum(distance, cell_distance + margin).astype(np.float32)

    cell_coarse = outline.distance(_COARSE_SIDE)
    cell_area = np.count_nonzero(cell_coarse < 0)
    scale = radius * float(np.sqrt(target))
    for _ in range(3):  # clipping by the membrane makes area and scale not quite proportional
        area = float(np.count_nonzero(nucleus_distance(_COARSE_SIDE, scale, cell_coarse) < 0))
        scale *= float(np.clip(np.sqrt(target * cell_area / (area + 1e-6)), 0.6, 1.5))
    cell = outline.distance(grid_size)
    nucleus = nucleus_distance(grid_size, scale, cell)
    if cell_type.smudge:
        cell = nucleus
    room = max(radius * 0.96 - scale * extent, 0.0) * eccentricity
    nucleus_centre = (centre[0] + room * np.cos(direction), centre[1] + room * np.sin(direction))
    return Anatomy(cell, nucleus, radius, centre, nucleus_centre, kind, lobes)
