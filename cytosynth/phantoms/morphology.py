"""The look of one cell class, as distributions that a renderer samples.

Lengths are in red-cell diameters (about 7.2 micrometres), areas and concentrations are ratios.
Every ``(low, high)`` pair is the range of a bell-shaped distribution (see :func:`sample_value`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]


def sample_value(rng: np.random.Generator, bounds: Range) -> float:
    """One value from ``bounds``, most often near the middle, never outside."""
    low, high = bounds
    return float(low + (high - low) * rng.beta(2.0, 2.0))


@dataclass(frozen=True)
class Granules:
    """One population of cytoplasmic granules.

    ``density`` is the number per red-cell area of cytoplasm, ``radius`` is in red-cell diameters.
    ``nuclear``, ``basophilic`` and ``eosinophilic`` are stain concentrations at a granule's centre;
    ``over_nucleus`` is the share of granules allowed to lie over the nucleus.
    """

    kind: str
    density: Range
    radius: Range
    nuclear: float = 0.0
    basophilic: float = 0.0
    eosinophilic: float = 0.0
    over_nucleus: float = 0.1


@dataclass(frozen=True)
class CellType:
    """Distribution parameters of one class of white blood cell.

    Attributes:
        diameter: cell diameter, red-cell diameters.
        nc_ratio: nuclear area over whole-cell area.
        nucleus_kinds: outline kind to weight (kinds: ``nuclei.NUCLEUS_KINDS``).
        corners: lowest and highest number of pointed corners of the outline.
        lobes: number of nuclear lobes to weight, used by the ``segmented`` kind.
        eccentricity: nucleus offset, 0 = central, 1 = touching the membrane.
        irregularity: amplitude of the cell outline's undulation, fraction of its radius.
        chromatin_grain: chromatin features per red-cell diameter (high = fine).
        chromatin_contrast: 0 = homogeneous, 1 = clumps with clear gaps.
        chromatin_density: concentration of nuclear stain in the darkest chromatin.
        nucleoli: lowest and highest number of visible nucleoli.
        basophilia, eosinophilia, haemoglobin: stain concentrations of the cytoplasm.
        cytoplasm_texture: relative mottling of the cytoplasm.
        rim_basophilia: extra basophilia at the membrane.
        golgi_clearing: 0..1, strength of the pale zone beside the nucleus.
        granules: granule populations.
        vacuoles: lowest and highest number of vacuoles.
        smudge: ruptured cell: a smeared nucleus, no cytoplasm.
    """

    description: str
    diameter: Range
    nc_ratio: Range
    nucleus_kinds: dict[str, float]
    lobes: dict[int, float] | None = None
    eccentricity: Range = (0.1, 0.7)
    irregularity: Range = (0.01, 0.05)
    corners: tuple[int, int] = (0, 0)
    chromatin_grain: Range = (11.0, 16.0)
    chromatin_contrast: Range = (0.35, 0.55)
    chromatin_density: Range = (0.85, 1.05)
    nucleoli: tuple[int, int] = (0, 0)
    basophilia: Range = (0.05, 0.15)
    eosinophilia: Range = (0.05, 0.15)
    haemoglobin: Range = (0.0, 0.0)
    cytoplasm_texture: Range = (0.07, 0.20)
    rim_basophilia: Range = (0.0, 0.1)
    golgi_clearing: Range = (0.0, 0.0)
    granules: tuple[Granules, ...] = ()
    vacuoles: tuple[int, int] = (0, 0)
    smudge: bool = False
