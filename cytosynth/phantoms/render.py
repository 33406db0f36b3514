"""Renders phantoms: procedural photographs of white blood cells with ground truth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from cytosynth.phantoms.anatomy import sample_anatomy
from cytosynth.phantoms.cell_types import cell_type_named
from cytosynth.phantoms.laboratory import Laboratory
from cytosynth.phantoms.optics import area_downsample, illuminate, photograph
from cytosynth.phantoms.staining import STAINS, stain_cell
from cytosynth.phantoms.surroundings import place_red_cells, platelet_layer, red_cell_layer

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Phantom:
    """A rendered cell and its ground truth.

    Attributes:
        image: uint8 (size_px, size_px, 3), RGB.
        nucleus_mask, cell_mask: bool (size_px, size_px); the nucleus lies inside the cell.
        attributes: ``cell_class``, ``laboratory``, ``cell_diameter_px`` and ``nucleus_diameter_px``
            (of the circle of equal area), ``nc_ratio`` (nuclear over cell area), ``nucleus_kind``,
            ``lobes``, ``granule_count``, ``nucleoli``, ``vacuoles``, ``red_cells``, ``platelets``.
    """

    image: np.ndarray
    nucleus_mask: np.ndarray
    cell_mask: np.ndarray
    attributes: dict[str, object]


def render_phantom(
    cell_class: str, laboratory: Laboratory, seed: int, size_px: int = 64
) -> Phantom:
    """Render one cell of ``cell_class`` as ``laboratory`` would photograph it.

    Deterministic in its arguments. The same class and seed give the same cell in every
    laboratory and at every size, up to magnification.

    Raises:
        ValueError: unknown class, negative seed or a size below 16 px.
    """
    cell_type = cell_type_named(cell_class)
    if seed < 0 or size_px < 16:
        raise ValueError(f"need seed >= 0 and size_px >= 16, got seed={seed}, size_px={size_px}")
    entropy = np.random.SeedSequence([int(seed), zlib.crc32(cell_class.encode())])
    cell_rng, stain_rng, field_rng, camera_rng = (
        np.random.default_rng(s) for s in entropy.spawn(4)
    )
    grid_size = size_px * SUPERSAMPLING

    anatomy = sample_anatomy(cell_rng, cell_type, laboratory.red_cell_diameter, grid_size)
    layers, coverage, counts = stain_cell(stain_rng, cell_type, anatomy, laboratory)
    red_cells = place_red_cells(field_rng, anatomy.cell_radius, laboratory)
    haemoglobin = red_cell_layer(field_rng, grid_size, red_cells, laboratory.central_pallor)
    layers["red_cell"] = layers["red_cell"] + haemoglobin * (1.0 - coverage)
    body, dots, platelets = platelet_layer(
        field_rng, grid_size, anatomy.cell_radius, laboratory.red_cell_diameter
    )
    if platelets:
        outside = 1.0 - coverage
        layers["basophilic"] = layers["basophilic"] + 0.18 * body * outside
        layers["nuclear"] = layers["nuclear"] + (0.12 * body + 0.5 * dots) * outside

    absorbance = np.zeros((grid_size, grid_size, 3), dtype=np.float32)
    for name in STAINS:
        density = getattr(laboratory, f"{name}_stain").optical_density()
        absorbance += layers[name].astype(np.float32)[..., None] * density
    light = illuminate(absorbance, laboratory, field_rng)
    image = photograph(light, laboratory, SUPERSAMPLING, camera_rng)

    cell_mask = (
        area_downsample((anatomy.cell_distance < 0).astype(np.float32), SUPERSAMPLING) >= 0.5
    )
    nucleus_mask = (
        area_downsample((anatomy.nucleus_distance < 0).astype(np.float32), SUPERSAMPLING) >= 0.5
    )
    nucleus_mask &= cell_mask
    cell_area = np.count_nonzero(anatomy.cell_distance < 0) / SUPERSAMPLING**2
    nucleus_area = np.count_nonzero(anatomy.nucleus_distance < 0) / SUPERSAMPLING**2
    attributes = {
        "cell_class": cell_class,
        "laboratory": laboratory.name,
        "cell_diameter_px": 2.0 * float(np.sqrt(cell_area / np.pi)),
        "nucleus_diameter_px": 2.0 * float(np.sqrt(nucleus_area / np.pi)),
        "nc_ratio": float(nucleus_area / max(cell_area, 1e-9)),
        "nucleus_kind": anatomy.nucleus_kind,
        "lobes": anatomy.lobes,
        "red_cells": len(red_cells),
        "platelets": platelets,
        **counts,
    }
    return Phantom(image, nucleus_mask, cell_mask, attributes)
