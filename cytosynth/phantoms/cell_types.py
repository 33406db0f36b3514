"""Morphology of the 15 Munich AML single-cell classes: :class:`CellType` by class id."""

from __future__ import annotations

from dataclasses import replace

from cytosynth.phantoms.morphology import CellType, Granules

_NEUTROPHIL_DUST = Granules(
    "neutrophil", (60, 140), (0.012, 0.020), nuclear=0.14, eosinophilic=0.20
)
_SECONDARY = Granules(
    "neutrophil", (40, 120), (0.013, 0.022), nuclear=0.22, eosinophilic=0.25, over_nucleus=0.2
)
_AZUROPHIL = Granules(
    "azurophil", (60, 150), (0.016, 0.026), nuclear=0.55, eosinophilic=0.12, over_nucleus=0.35
)

_NEUTROPHIL = CellType(
    description="lobes joined by thin threads, condensed chromatin, pale pink granular cytoplasm",
    diameter=(1.52, 1.93),
    nc_ratio=(0.30, 0.42),
    nucleus_kinds={"segmented": 1.0},
    lobes={2: 0.12, 3: 0.42, 4: 0.34, 5: 0.12},
    eccentricity=(0.0, 0.5),
    chromatin_grain=(13.2, 18.8),
    chromatin_contrast=(0.36, 0.61),
    chromatin_density=(1.01, 1.19),
    basophilia=(0.05, 0.16),
    eosinophilia=(0.10, 0.22),
    granules=(_NEUTROPHIL_DUST,),
)

_MYELOCYTE = CellType(
    description="round to oval eccentric nucleus without nucleoli, granules in pink-blue cytoplasm",
    diameter=(1.66, 2.11),
    nc_ratio=(0.46, 0.62),
    nucleus_kinds={"round": 0.4, "oval": 0.6},
    eccentricity=(0.7, 1.0),
    irregularity=(0.01, 0.06),
    corners=(0, 1),
    chromatin_grain=(15.4, 20.9),
    chromatin_contrast=(0.42, 0.64),
    chromatin_density=(0.91, 1.10),
    basophilia=(0.16, 0.36),
    eosinophilia=(0.10, 0.22),
    golgi_clearing=(0.1, 0.6),
    granules=(_SECONDARY, replace(_AZUROPHIL, density=(8, 45))),
)

_PROMYELOCYTE = CellType(
    description="large, high N:C, nucleoli, many azurophil granules also over the nucleus",
    diameter=(1.88, 2.33),
    nc_ratio=(0.58, 0.74),
    nucleus_kinds={"round": 0.4, "oval": 0.45, "indented": 0.15},
    eccentricity=(0.5, 1.0),
    irregularity=(0.01, 0.06),
    corners=(0, 1),
    chromatin_grain=(19.8, 26.4),
    chromatin_contrast=(0.31, 0.50),
    chromatin_density=(0.81, 1.00),
    nucleoli=(1, 3),
    basophilia=(0.34, 0.62),
    eosinophilia=(0.03, 0.12),
    rim_basophilia=(0.05, 0.2),
    golgi_clearing=(0.3, 0.9),
    granules=(_AZUROPHIL,),
)

CELL_TYPES: dict[str, CellType] = {
    "basophil": CellType(
        description="coarse dark purple granules that may cover a bilobed nucleus",
        diameter=(1.48, 1.85),
        nc_ratio=(0.42, 0.60),
        nucleus_kinds={"bilobed": 0.4, "lobulated": 0.4, "indented": 0.2},
        eccentricity=(0.0, 0.5),
        irregularity=(0.015, 0.05),
        chromatin_grain=(11.0, 15.4),
        chromatin_contrast=(0.17, 0.38),
        chromatin_density=(0.69, 0.95),
        basophilia=(0.18, 0.42),
        eosinophilia=(0.15, 0.35),
        granules=(
            Granules("basophil", (50, 130), (0.026, 0.042), 0.62, 0.10, 0.0, over_nucleus=0.85),
            Granules("basophil", (30, 90), (0.014, 0.022), 0.45, 0.0, 0.2, over_nucleus=0.6),
        ),
    ),
    "erythroblast": CellType(
        description="small round very dense nucleus, grey-pink to grey-blue cytoplasm, no granules",
        diameter=(1.12, 1.59),
        nc_ratio=(0.26, 0.50),
        nucleus_kinds={"round": 0.9, "oval": 0.1},
        eccentricity=(0.1, 0.9),
        irregularity=(0.01, 0.05),
        chromatin_grain=(9.9, 14.2),
        chromatin_contrast=(0.14, 0.47),
        chromatin_density=(1.17, 1.43),
        basophilia=(0.08, 0.50),
        eosinophilia=(0.0, 0.04),
        haemoglobin=(0.3, 0.9),
        cytoplasm_texture=(0.04, 0.13),
    ),
    "eosinophil": CellType(
        description="two (three) lobes, cytoplasm packed with large orange-red granules",
        diameter=(1.62, 2.04),
        nc_ratio=(0.28, 0.40),
        nucleus_kinds={"segmented": 1.0},
        lobes={2: 0.75, 3: 0.25},
        eccentricity=(0.2, 0.7),
        chromatin_grain=(13.2, 18.8),
        chromatin_contrast=(0.36, 0.55),
        chromatin_density=(0.90, 1.09),
        basophilia=(0.02, 0.10),
        eosinophilia=(0.5, 0.75),
        granules=(
            Granules("eosinophil", (130, 220), (0.026, 0.038), 0.08, 0.0, 0.38, over_nucleus=0.06),
        ),
        vacuoles=(0, 2),
    ),
    "smudge_cell": CellType(
        description="ruptured smeared nucleus, streaky chromatin, no cytoplasm outline",
        diameter=(1.46, 2.18),
        nc_ratio=(1.0, 1.0),
        nucleus_kinds={"smear": 1.0},
        eccentricity=(0.0, 0.0),
        irregularity=(0.08, 0.2),
        chromatin_grain=(7.0, 16.0),
        chromatin_contrast=(0.28, 0.50),
        chromatin_density=(0.48, 0.80),
        eosinophilia=(0.0, 0.0),
        basophilia=(0.0, 0.0),
        smudge=True,
    ),
    "lymphocyte_atypical": CellType(
        description="large spread cell, abundant sky-blue cytoplasm with dark rim, moulded outline",
        diameter=(1.68, 2.30),
        nc_ratio=(0.36, 0.58),
        nucleus_kinds={"oval": 0.4, "indented": 0.35, "folded": 0.25},
        eccentricity=(0.2, 0.9),
        irregularity=(0.03, 0.10),
        corners=(0, 3),
        chromatin_grain=(11.0, 16.5),
        chromatin_contrast=(0.33, 0.55),
        chromatin_density=(0.90, 1.11),
        nucleoli=(0, 1),
        basophilia=(0.28, 0.62),
        eosinophilia=(0.0, 0.05),
        rim_basophilia=(0.25, 0.6),
        golgi_clearing=(0.0, 0.4),
        vacuoles=(0, 2),
    ),
    "lymphocyte": CellType(
        description="small, very high N:C, condensed smooth clumps, scant sky-blue cytoplasm",
        diameter=(1.14, 1.50),
        nc_ratio=(0.68, 0.90),
        nucleus_kinds={"round": 0.65, "oval": 0.2, "indented": 0.15},
        eccentricity=(0.3, 1.0),
        irregularity=(0.01, 0.05),
        chromatin_grain=(9.9, 14.2),
        chromatin_contrast=(0.25, 0.47),
        chromatin_density=(1.06, 1.27),
        basophilia=(0.28, 0.58),
        eosinophilia=(0.0, 0.04),
    ),
    "metamyelocyte": replace(
        _MYELOCYTE,
        description="kidney-shaped nucleus, clumped chromatin, pink granular cytoplasm",
        diameter=(1.57, 1.97),
        nc_ratio=(0.42, 0.56),
        nucleus_kinds={"kidney": 1.0},
        eccentricity=(0.4, 0.9),
        chromatin_grain=(14.2, 18.8),
        chromatin_density=(0.95, 1.12),
        basophilia=(0.06, 0.22),
        eosinophilia=(0.14, 0.26),
        golgi_clearing=(0.0, 0.2),
        granules=(_SECONDARY,),
    ),
    "monoblast": CellType(
        description="large blast, folded nucleus, lacy chromatin, nucleoli, grey-blue cytoplasm",
        diameter=(1.96, 2.35),
        nc_ratio=(0.58, 0.74),
        nucleus_kinds={"folded": 0.5, "indented": 0.25, "oval": 0.25},
        eccentricity=(0.3, 0.9),
        irregularity=(0.02, 0.08),
        chromatin_grain=(22.0, 28.6),
        chromatin_contrast=(0.25, 0.40),
        chromatin_density=(0.59, 0.77),
        nucleoli=(1, 2),
        basophilia=(0.40, 0.70),
        eosinophilia=(0.0, 0.05),
        rim_basophilia=(0.0, 0.2),
        granules=(replace(_AZUROPHIL, density=(0, 12), radius=(0.012, 0.018)),),
        vacuoles=(0, 3),
    ),
    "monocyte": CellType(
        description="large, folded nucleus with loose chromatin, grey-blue vacuolated cytoplasm",
        diameter=(1.84, 2.33),
        nc_ratio=(0.38, 0.56),
        nucleus_kinds={"folded": 0.5, "kidney": 0.35, "indented": 0.15},
        eccentricity=(0.1, 0.6),
        irregularity=(0.02, 0.10),
        corners=(0, 2),
        chromatin_grain=(16.5, 23.1),
        chromatin_contrast=(0.40, 0.61),
        chromatin_density=(0.83, 1.02),
        basophilia=(0.22, 0.42),
        eosinophilia=(0.05, 0.12),
        cytoplasm_texture=(0.19, 0.37),
        granules=(Granules("azurophil", (30, 90), (0.010, 0.016), 0.22, 0.05, 0.1),),
        vacuoles=(0, 7),
    ),
    "myelocyte": _MYELOCYTE,
    "myeloblast": CellType(
        description="high N:C, round nucleus, fine open chromatin, nucleoli, thin blue cytoplasm",
        diameter=(1.52, 2.02),
        nc_ratio=(0.74, 0.88),
        nucleus_kinds={"round": 0.6, "oval": 0.4},
        eccentricity=(0.2, 0.9),
        irregularity=(0.01, 0.05),
        chromatin_grain=(24.2, 30.8),
        chromatin_contrast=(0.20, 0.33),
        chromatin_density=(0.63, 0.82),
        nucleoli=(1, 4),
        basophilia=(0.45, 0.80),
        eosinophilia=(0.0, 0.04),
        rim_basophilia=(0.0, 0.2),
    ),
    "neutrophil_band": replace(
        _NEUTROPHIL,
        description="uniform-width horseshoe nucleus, pale pink granular cytoplasm",
        nucleus_kinds={"band": 1.0},
        nc_ratio=(0.30, 0.42),
        lobes=None,
    ),
    "neutrophil_segmented": _NEUTROPHIL,
    "promyelocyte_bilobed": replace(
        _PROMYELOCYTE,
        description="promyelocyte with a deeply cleft butterfly nucleus (hypogranular APL variant)",
        nucleus_kinds={"butterfly": 1.0},
        nc_ratio=(0.54, 0.70),
        eccentricity=(0.0, 0.4),
        nucleoli=(0, 2),
        golgi_clearing=(0.0, 0.4),
        granules=(replace(_AZUROPHIL, density=(10, 90), radius=(0.012, 0.022)),),
    ),
    "promyelocyte": _PROMYELOCYTE,
}


def cell_type_named(cell_class: str) -> CellType:
    """The :class:`CellType` of a class id.

    Raises:
        ValueError: The id is unknown; the message lists the known ids.
    """
    try:
        return CELL_TYPES[cell_class]
    except KeyError:
        known = ", ".join(sorted(CELL_TYPES))
        raise ValueError(f"unknown cell class {cell_class!r}; known classes: {known}") from None
