"""Writes phantoms as an ImageFolder tree with ``labels.csv``."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cytosynth.labels_table import LABELS_FILE, PATIENT_COLUMN
from cytosynth.phantoms.cell_types import cell_type_named
from cytosynth.phantoms.laboratory import Laboratory
from cytosynth.phantoms.render import render_phantom

IMAGES_PER_PATIENT = 8


def write_image_folder(
    folder: str | Path,
    laboratory: Laboratory,
    images_per_class: dict[str, int],
    seed: int,
    size_px: int = 64,
) -> None:
    """Write ``<folder>/<class>/0001.png`` ... and ``labels.csv`` (file, class, patient_id).

    Patients hold about eight images each, shared across classes as in a real ward.

    Raises:
        ValueError: unknown class; nothing has been written then.
    """
    for cell_class in images_per_class:
        cell_type_named(cell_class)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    total = sum(images_per_class.values())
    rng = np.random.default_rng([seed, zlib.crc32(laboratory.name.encode())])
    patient_count = max(1, round(total / IMAGES_PER_PATIENT))
    patients = rng.permutation(np.arange(total) % patient_count)

    rows: list[tuple[str, str, str]] = []
    for cell_class, count in images_per_class.items():
        (root / cell_class).mkdir(exist_ok=True)
        cell_seeds = rng.integers(0, 2**31, count)
        for number, cell_seed in enumerate(cell_seeds, start=1):
            phantom = render_phantom(cell_class, laboratory, int(cell_seed), size_px)
            file = f"{cell_class}/{number:04d}.png"
            Image.fromarray(phantom.image).save(root / file)
            rows.append((file, cell_class, f"{laboratory.name}-p{patients[len(rows)] + 1:04d}"))
    with (root / LABELS_FILE).open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("file", "class", PATIENT_COLUMN))
        writer.writerows(rows)
