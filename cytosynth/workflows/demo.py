"""The demonstration: the pipeline on a phantom hospital with an unseen stain."""

from __future__ import annotations

import shutil
from pathlib import Path

from cytosynth.client import Client, SynthesisSettings
from cytosynth.phantoms import DEMO_HOSPITAL, write_image_folder
from cytosynth.workflows.cell_sheet import write_cell_sheet
from cytosynth.workflows.pipeline import PipelineOptions

# A long tail as in a leukaemia laboratory: common cells first, from 16 shots down to 4. Most are
# neighbours in the maturation of neutrophils, which people confuse too.
SHOTS = {
    "neutrophil_segmented": 16,
    "lymphocyte": 14,
    "neutrophil_band": 10,
    "metamyelocyte": 8,
    "myelocyte": 6,
    "promyelocyte": 4,
}
# Patients stay in one split, so a class loses more than its shots to training.
IMAGES_PER_CLASS = 80
NUM_PER_CLASS = 100
NUM_STEPS = 160
"""Phantoms of one laboratory are learned in a third of the steps that real cells take."""
SEED = 2026
CELLS_SHOWN = 4
"""Cells of each class in the picture, real and synthetic."""


def write_hospital(folder: Path) -> None:
    """Write the phantom hospital to ``folder``, anew if it was there."""
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    write_image_folder(draft, DEMO_HOSPITAL, dict.fromkeys(SHOTS, IMAGES_PER_CLASS), SEED)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def demo_options(out: Path, *, preset: str = "cpu", seed: int = 0) -> PipelineOptions:
    """Write the hospital to ``<out>/hospital``; returns the pipeline's options for it."""
    out.mkdir(parents=True, exist_ok=True)
    write_hospital(out / "hospital")
    return PipelineOptions(
        data=out / "hospital",
        out=out,
        class_shots=SHOTS,
        num_per_class=NUM_PER_CLASS,
        preset=preset,
        num_steps=NUM_STEPS if preset == "cpu" else 0,
        calibration_folds=0,  # the demonstration compares; calibration would double its time
        seed=seed,
        title="Phantom hospital: a stain the base has not seen",
    )


def write_cells(client: Client, options: PipelineOptions, adapter: str) -> Path:
    """Writes ``cells.png``: cells of the hospital beside synthetic ones of the adapter."""
    real = {
        class_id: [
            path.read_bytes() for path in sorted((options.data / class_id).iterdir())[:CELLS_SHOWN]
        ]
        for class_id in options.class_shots
    }
    synthetic: dict[str, list[bytes]] = {class_id: [] for class_id in real}
    counts = dict.fromkeys(real, CELLS_SHOWN)
    for image in client.synthesize(counts, SynthesisSettings(adapter=adapter, seed=options.seed)):
        synthetic[image.class_id].append(image.data)
    path = options.out / "cells.png"
    write_cell_sheet(path, real, synthetic)
    return path
