"""Phantoms: procedural photographs of single white blood cells with ground truth."""

from cytosynth.phantoms.cell_types import CELL_TYPES
from cytosynth.phantoms.hospital import write_image_folder
from cytosynth.phantoms.laboratory import (
    DEMO_HOSPITAL,
    PALE_GREY_FIELD,
    RAPID_YELLOW_FIELD,
    REFERENCE,
    Laboratory,
    Stain,
    sample_laboratory,
)
from cytosynth.phantoms.morphology import CellType
from cytosynth.phantoms.render import Phantom, render_phantom

__all__ = [
    "CELL_TYPES",
    "DEMO_HOSPITAL",
    "PALE_GREY_FIELD",
    "RAPID_YELLOW_FIELD",
    "REFERENCE",
    "CellType",
    "Laboratory",
    "Phantom",
    "Stain",
    "render_phantom",
    "sample_laboratory",
    "write_image_folder",
]
