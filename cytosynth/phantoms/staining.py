"""Stain concentrations inside one cell: chromatin, cytoplasm, granules, vacuoles."""

from __future__ import annotations

import numpy as np

from cytosynth.phantoms.anatomy import Anatomy
from cytosynth.phantoms.fields import (
    Field,
    frame_axes,
    smooth_noise,
    smooth_step,
    soft_inside,
    spots,
)
from cytosynth.phantoms.laboratory import Laboratory
from cytosynth.phantoms.morphology import CellType, Granules, sample_value

STAINS = ("nuclear", "basophilic", "eosinophilic", "red_cell")
_EDGE = 0.006  # softness of membranes, frame widths


def stain_cell(
    rng: np.random.Generator, cell_type: CellType, anatomy: Anatomy, laboratory: Laboratory
) -> tuple[dict[str, Field], Field, dict[str, int]]:
    """Stain concentrations (S, S) by name, cell coverage, and structure counts."""
    cell = soft_inside(anatomy.cell_distance, _EDGE)
    nucleus = soft_inside(anatomy.nucleus_distance, _EDGE * (5.0 if cell_type.smudge else 0.8))
    layers, vacuole_count = _cytoplasm(rng, cell_type, anatomy, laboratory)
    for name in STAINS:
        layers[name] = layers[name] * (1.0 - 0.9 * nucleus)
    chromatin, nucleoli = _chromatin(rng, cell_type, anatomy, laboratory)
    layers["nuclear"] = layers["nuclear"] + chromatin * nucleus
    parachromatin = np.clip(1.2 - chromatin, 0.0, 1.0)  # the gaps between clumps stain reddish
    layers["eosinophilic"] = layers["eosinophilic"] + (0.05 + 0.14 * parachromatin) * nucleus
    granule_count = 0
    for population in cell_type.granules:
        granule_count += _add_granules(rng, population, anatomy, laboratory, layers, nucleus)
    layers["nuclear"] = np.where(  # the stain saturates where granules overlie chromatin
        layers["nuclear"] > 1.15, 1.15 + 0.25 * (layers["nuclear"] - 1.15), layers["nuclear"]
    )
    if not cell_type.smudge:
        for name in STAINS:
            layers[name] = layers[name] * cell
    else:
        cell = nucleus
    counts = {"granule_count": granule_count, "nucleoli": nucleoli, "vacuoles": vacuole_count}
    return layers, cell, counts


def _chromatin(
    rng: np.random.Generator, cell_type: CellType, anatomy: Anatomy, laboratory: Laboratory
) -> tuple[Field, int]:
    """Nuclear-stain concentration of chromatin (S, S) and the number of nucleoli."""
    grid_size = anatomy.cell_distance.shape[0]
    cells = sample_value(rng, cell_type.chromatin_grain) / laboratory.red_cell_diameter
    contrast = min(
        sample_value(rng, cell_type.chromatin_contrast) * laboratory.chromatin_detail, 0.9
    )
    density = sample_value(rng, cell_type.chromatin_density)
    texture = 0.75 * smooth_noise(rng, grid_size, cells) + 0.45 * smooth_noise(
        rng, grid_size, cells * 1.9
    )
    clumps = smooth_step(3.0 * texture + 1.2)
    shade = 1.0 + 0.06 * smooth_noise(rng, grid_size, 5)
    field = density * (1.0 - contrast * (1.0 - clumps)) * shade
    if cell_type.smudge:
        depth = np.clip(-anatomy.nucleus_distance / (0.5 * anatomy.cell_radius), 0.0, 1.0)
        return field * (0.45 + 0.55 * depth) * _streaks(rng, grid_size), 0
    rim = np.exp(-((anatomy.nucleus_distance / np.float32(0.012)) ** 2))
    field = field * (1.0 + 0.20 * rim)
    if anatomy.nucleus_kind in ("folded", "indented"):
        field = field * _crease(rng, anatomy)
    low, high = cell_type.nucleoli
    count = int(rng.integers(low, high + 1))
    x, y = frame_axes(grid_size)
    for _ in range(count):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.5)
        radius = laboratory.red_cell_diameter * rng.uniform(0.10, 0.19)
        spread = anatomy.cell_radius * 0.75 * reach
        cx = anatomy.nucleus_centre[0] + spread * np.cos(angle)
        cy = anatomy.nucleus_centre[1] + spread * np.sin(angle)
        distance = np.hypot(x - cx, y - cy)
        pale = soft_inside(distance - radius, 0.010)
        ring = np.exp(-(((distance - radius * 1.15) / (0.25 * radius)) ** 2))
        visible = np.float32(min(laboratory.chromatin_detail, 1.0))
        field = field * (1.0 - 0.42 * visible * pale + 0.16 * visible * ring)
    return field, count


def _streaks(rng: np.random.Generator, grid_size: int) -> Field:
    """Fibres of a smeared nucleus: a factor (S, S).

    The factor varies across one random direction.
    """
    x, y = frame_axes(grid_size)
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * x + np.sin(angle) * y + 0.05 * smooth_noise(rng, grid_size, 4)
    profile = rng.standard_normal(48)
    ridges = np.interp(across.ravel(), np.linspace(-0.8, 0.8, 48), profile).reshape(
        grid_size, grid_size
    )
    return (0.74 + 0.40 * smooth_step(1.6 * ridges)).astype(np.float32)


def _crease(rng: np.random.Generator, anatomy: Anatomy) -> Field:
    """Dark fold of the nucleus, paler beside: a factor (S, S)."""
    x, y = frame_axes(anatomy.cell_distance.shape[0])
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.5) * anatomy.cell_radius
    cx = anatomy.nucleus_centre[0] + bend * np.cos(angle)
    cy = anatomy.nucleus_centre[1] + bend * np.sin(angle)
    across = (np.hypot(x - cx, y - cy) - bend * rng.uniform(0.85, 1.15)) / np.float32(0.016)
    return 1.0 + 0.16 * np.exp(-(across**2)) - 0.12 * np.exp(-((across - 1.8) ** 2))


def _cytoplasm(
    rng: np.random.Generator, cell_type: CellType, anatomy: Anatomy, laboratory: Laboratory
) -> tuple[dict[str, Field], int]:
    """Cytoplasmic concentrations (S, S) by stain, and the number of vacuoles."""
    grid_size = anatomy.cell_distance.shape[0]
    texture = sample_value(rng, cell_type.cytoplasm_texture)
    mottle = 1.0 + texture * (
        0.8 * smooth_noise(rng, grid_size, 13.0 / laboratory.red_cell_diameter)
        + 0.35 * smooth_noise(rng, grid_size, 7)
    )
    mottle = np.maximum(mottle, 0.2)
    rim = np.exp(np.minimum(anatomy.cell_distance, 0) / np.float32(0.12 * anatomy.cell_radius))
    basophilia: Field = (
        sample_value(rng, cell_type.basophilia) + sample_value(rng, cell_type.rim_basophilia) * rim
    )
    clearing = sample_value(rng, cell_type.golgi_clearing)
    if clearing > 0:
        x, y = frame_axes(grid_size)
        angle = rng.normal(0, 0.5) + np.arctan2(
            anatomy.cell_centre[1] - anatomy.nucleus_centre[1],
            anatomy.cell_centre[0] - anatomy.nucleus_centre[0],
        )
        reach = 0.45 * anatomy.cell_radius
        cx, cy = (
            anatomy.cell_centre[0] + reach * np.cos(angle),
            anatomy.cell_centre[1] + reach * np.sin(angle),
        )
        zone = np.exp(
            -((x - cx) ** 2 + (y - cy) ** 2) / np.float32((0.32 * anatomy.cell_radius) ** 2)
        )
        basophilia = basophilia * (1.0 - 0.75 * clearing * zone)
    thickness = 0.0 if cell_type.smudge else 0.09
    membrane = thickness * np.exp(-((anatomy.cell_distance / np.float32(0.010)) ** 2))
    layers: dict[str, Field] = {
        "nuclear": np.zeros((grid_size, grid_size), np.float32) + membrane,
        "basophilic": basophilia * mottle + membrane,
        "eosinophilic": sample_value(rng, cell_type.eosinophilia) * mottle,
        "red_cell": sample_value(rng, cell_type.haemoglobin) * mottle,
    }
    low, high = cell_type.vacuoles
    count = int(rng.integers(low, high + 1))
    if count:
        angles = rng.uniform(0, 2 * np.pi, count)
        reaches = anatomy.cell_radius * np.sqrt(rng.uniform(0.1, 0.8, count))
        vx = anatomy.cell_centre[0] + reaches * np.cos(angles)
        vy = anatomy.cell_centre[1] + reaches * np.sin(angles)
        radius = laboratory.red_cell_diameter * rng.uniform(0.035, 0.075)
        empty = 1.0 - 0.95 * spots(vx, vy, rng.uniform(0.5, 1.0, count), radius, grid_size)
        layers = {name: field * empty for name, field in layers.items()}
    return layers, count


def _add_granules(
    rng: np.random.Generator,
    population: Granules,
    anatomy: Anatomy,
    laboratory: Laboratory,
    layers: dict[str, Field],
    nucleus: Field,
) -> int:
    """Add one granule population to ``layers`` in place.

    Returns:
        Number of granules placed.
    """
    grid_size = nucleus.shape[0]
    red_cells_in_cell = (2 * anatomy.cell_radius / laboratory.red_cell_diameter) ** 2
    wanted = int(sample_value(rng, population.density) * red_cells_in_cell)
    if wanted == 0:
        return 0
    angle, reach = rng.uniform(0, 2 * np.pi, wanted), np.sqrt(rng.uniform(0, 1, wanted))
    x = anatomy.cell_centre[0] + anatomy.cell_radius * reach * np.cos(angle)
    y = anatomy.cell_centre[1] + anatomy.cell_radius * reach * np.sin(angle)
    weights = rng.uniform(0.5, 1.2, wanted)
    over = rng.uniform(0, 1, wanted) < population.over_nucleus
    radius = sample_value(rng, population.radius) * laboratory.red_cell_diameter
    column = np.clip(((x + 0.5) * grid_size).astype(int), 0, grid_size - 1)
    row = np.clip(((y + 0.5) * grid_size).astype(int), 0, grid_size - 1)
    inside = anatomy.cell_distance[row, column] < -0.4 * radius
    kept = inside & (over | (anatomy.nucleus_distance[row, column] > 0))
    cover = spots(x[kept], y[kept], weights[kept], radius, grid_size) * np.float32(
        laboratory.granule_detail
    )
    for name in ("nuclear", "basophilic", "eosinophilic"):
        amount = getattr(population, name)
        if amount:
            layers[name] = layers[name] + np.float32(amount) * cover
    return int(kept.sum())
