"""How one laboratory stains, lights and photographs its smears.

Stain colours are the colour of white light transmitted at concentration 1, given as hue (degrees),
saturation and value (0..1); their optical density follows from the Beer-Lambert law.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stain:
    """One dye: the HSV colour it transmits at concentration 1."""

    hue_deg: float
    saturation: float
    value: float

    def optical_density(self) -> np.ndarray:
        """Absorbance per unit concentration, (3,) float32 in RGB order, natural logarithm."""
        rgb = colorsys.hsv_to_rgb(self.hue_deg % 360.0 / 360.0, self.saturation, self.value)
        return -np.log(np.clip(rgb, 0.02, 1.0)).astype(np.float32)


@dataclass(frozen=True)
class Laboratory:
    """Stain, illumination, optics and camera of one laboratory.

    Attributes:
        nuclear_stain: haematoxylin-like azure-eosin complex of chromatin (purple).
        basophilic_stain: azure of ribosome-rich cytoplasm (blue).
        eosinophilic_stain: eosin of granules and mature cytoplasm (pink to orange).
        red_cell_stain: haemoglobin.
        background_rgb: colour of the empty field, 0..255.
        gradient, gradient_angle: relative brightness change across the frame; direction (rad).
        vignetting: relative darkening of the corners.
        background_mottle: relative amplitude of plasma and dirt in the background.
        blur_sigma, chroma_softness: blur of light / extra blur of colour, frame widths.
        sharpening: strength of the camera's unsharp mask.
        sensor_noise: standard deviation in grey levels.
        chromatin_detail, granule_detail: 0..1.3, how much structure the stain shows.
        red_cell_density: 0..1, share of the free field covered by red cells.
        central_pallor: 0..1, paleness of a red cell's centre.
        red_cell_diameter: magnification, as the red-cell diameter in frame widths.
    """

    name: str
    nuclear_stain: Stain = Stain(259.0, 0.78, 0.675)
    basophilic_stain: Stain = Stain(239.0, 0.52, 0.84)
    eosinophilic_stain: Stain = Stain(348.0, 0.46, 0.78)
    red_cell_stain: Stain = Stain(322.0, 0.14, 0.82)
    background_rgb: tuple[float, float, float] = (254.0, 230.0, 201.0)
    gradient: float = 0.02
    gradient_angle: float = 0.0
    vignetting: float = 0.02
    background_mottle: float = 0.008
    blur_sigma: float = 0.0045
    chroma_softness: float = 0.003
    sharpening: float = 0.5
    sensor_noise: float = 1.0
    chromatin_detail: float = 1.0
    granule_detail: float = 1.0
    red_cell_density: float = 0.6
    central_pallor: float = 0.85
    red_cell_diameter: float = 0.36


REFERENCE = Laboratory(name="reference")
"""A May-Gruenwald-Giemsa smear on a warm CellaVision-like field."""

PALE_GREY_FIELD = Laboratory(
    name="pale_grey_field",
    nuclear_stain=Stain(256.0, 0.66, 0.86),
    basophilic_stain=Stain(226.0, 0.42, 0.88),
    eosinophilic_stain=Stain(338.0, 0.50, 0.84),
    red_cell_stain=Stain(10.0, 0.24, 0.84),
    background_rgb=(220.0, 222.0, 216.0),
    blur_sigma=0.011,
    sensor_noise=2.0,
    chromatin_detail=0.6,
    red_cell_diameter=0.34,
)
"""A Wright smear on a neutral grey field, slightly out of focus."""

RAPID_YELLOW_FIELD = Laboratory(
    name="rapid_yellow_field",
    nuclear_stain=Stain(292.0, 0.80, 0.55),
    basophilic_stain=Stain(250.0, 0.30, 0.78),
    eosinophilic_stain=Stain(8.0, 0.52, 0.76),
    red_cell_stain=Stain(20.0, 0.12, 0.93),
    background_rgb=(252.0, 246.0, 160.0),
    gradient=0.04,
    blur_sigma=0.010,
    sharpening=0.6,
    sensor_noise=2.5,
    chromatin_detail=0.45,
    granule_detail=0.6,
    red_cell_density=0.1,
    red_cell_diameter=0.39,
)
"""A rapid stain after red-cell lysis under yellow light."""

DEMO_HOSPITAL = Laboratory(
    name="demo_hospital",
    nuclear_stain=Stain(222.0, 0.80, 0.56),
    basophilic_stain=Stain(200.0, 0.42, 0.78),
    eosinophilic_stain=Stain(300.0, 0.36, 0.76),
    red_cell_stain=Stain(44.0, 0.26, 0.78),
    background_rgb=(196.0, 214.0, 190.0),
    gradient=0.07,
    gradient_angle=0.8,
    vignetting=0.09,
    blur_sigma=0.010,
    sensor_noise=2.0,
    chromatin_detail=0.8,
    red_cell_density=0.5,
    central_pallor=0.45,
    red_cell_diameter=0.37,
)
"""HELD OUT: the adaptation demo's hospital. Base models never see it.

Its nuclear, basophilic and eosinophilic hues and its greenish field all lie outside the ranges that
:func:`sample_laboratory` samples from, so adapting to it is real domain shift.
"""

NUCLEAR_HUE_RANGE = (242.0, 298.0)
BASOPHILIC_HUE_RANGE = (216.0, 258.0)
EOSINOPHILIC_HUE_RANGE = (326.0, 376.0)

_FIELD_COLOURS = {  # illumination families: (mean RGB, standard deviation per channel, weight)
    "cream": ((253, 231, 204), (2, 8, 12), 0.30),
    "pink": ((246, 226, 226), (6, 9, 9), 0.25),
    "white": ((252, 250, 250), (3, 4, 4), 0.15),
    "grey": ((222, 220, 217), (12, 11, 12), 0.17),
    "yellow": ((252, 245, 172), (3, 8, 22), 0.13),
}


def sample_laboratory(rng: np.random.Generator) -> Laboratory:
    """Random laboratory for domain randomisation.

    Stain, light and camera vary broadly.
    """
    names = list(_FIELD_COLOURS)
    weights = np.array([_FIELD_COLOURS[name][2] for name in names])
    family = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    mean, spread, _ = _FIELD_COLOURS[family]
    background = np.clip(rng.normal(mean, spread), 120, 255)
    background[1] = min(background[1], background[0] + 2.0)  # never the held-out green cast
    rapid = rng.random() < (0.7 if family == "yellow" else 0.15)

    nuclear_hue = rng.uniform(276, 298) if rapid and family == "yellow" else rng.normal(262, 9)
    nuclear_hue = np.clip(nuclear_hue, *NUCLEAR_HUE_RANGE)
    strength = rng.uniform(0.0, 1.0)  # 0 = pale preparation, 1 = overstained
    return Laboratory(
        name=f"random_{family}{'_rapid' if rapid else ''}",
        nuclear_stain=Stain(
            float(nuclear_hue), rng.uniform(0.56, 0.68) + 0.16 * strength, 0.86 - 0.28 * strength
        ),
        basophilic_stain=Stain(
            rng.uniform(*BASOPHILIC_HUE_RANGE), rng.uniform(0.34, 0.60), rng.uniform(0.76, 0.92)
        ),
        eosinophilic_stain=Stain(
            rng.uniform(*EOSINOPHILIC_HUE_RANGE), rng.uniform(0.36, 0.58), rng.uniform(0.74, 0.90)
        ),
        red_cell_stain=Stain(
            rng.uniform(305, 378), rng.uniform(0.08, 0.34), rng.uniform(0.74, 0.94)
        ),
        background_rgb=(float(background[0]), float(background[1]), float(background[2])),
        gradient=float(rng.beta(1, 4) * 0.16),
        gradient_angle=float(rng.uniform(0, 2 * np.pi)),
        vignetting=float(rng.beta(1, 4) * 0.15),
        background_mottle=float(rng.uniform(0.002, 0.02)),
        blur_sigma=float(0.003 + 0.012 * rng.beta(1.1, 2.4)),
        chroma_softness=float(rng.uniform(0.0, 0.02)),
        sharpening=float(max(0.0, rng.uniform(-0.4, 1.0))),
        sensor_noise=float(rng.uniform(0.3, 3.0)),
        chromatin_detail=float(rng.uniform(0.25, 0.7) if rapid else rng.uniform(0.6, 1.25)),
        granule_detail=float(rng.uniform(0.4, 0.8) if rapid else rng.uniform(0.75, 1.2)),
        red_cell_density=float(rng.uniform(0.0, 0.25) if rapid else rng.beta(2, 2)),
        central_pallor=float(rng.uniform(0.1, 0.95)),
        red_cell_diameter=float(rng.uniform(0.32, 0.41)),
    )
