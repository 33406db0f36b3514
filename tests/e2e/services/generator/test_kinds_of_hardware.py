"""Images on another kind of processor: other bits, the same image.

Another kind is emulated: torch and oneDNN are told to leave the newer instructions of this one
alone, so that other kernels sum in other orders.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[4]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OLD_PROCESSOR = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
NUM_IMAGES = 2
PROGRAM = """
import sys
import numpy as np
from benchmarks.generator.in_process import InProcess, pixels
from services.common.models.diffusion_bases import resolve_base
from services.generator.presets import preset_of
generator = InProcess()
base = resolve_base("cyto-small", generator.settings.models_dir)
plan = generator.plan({"basophil": 1, "monocyte": 1}, preset_of("fast", base), base.name)
np.save(sys.argv[1], np.stack([pixels(image) for image in generator.generate([plan])]))
"""


def generate(path: Path, dtype: str, processor: dict[str, str]) -> np.ndarray:
    """uint8 (NUM_IMAGES, 64, 64, 3), sampled by a process of its own."""
    own = {"CYTOSYNTH_GENERATOR_DTYPE": dtype, "PYTHONPATH": str(REPOSITORY)}
    env = {**os.environ, **own, **processor}
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], cwd=REPOSITORY, env=env, check=True)
    images: np.ndarray = np.load(path)
    assert images.shape == (NUM_IMAGES, 64, 64, 3)
    return images


@pytest.mark.parametrize(
    ("dtype", "most_levels", "least_psnr_db"), [("float32", 1, 60.0), ("bfloat16", 64, 40.0)]
)
def test_images_stay_within_the_stated_tolerance(
    tmp_path: Path, dtype: str, most_levels: int, least_psnr_db: float
) -> None:
    here = generate(tmp_path / "here.npy", dtype, {})
    there = generate(tmp_path / "there.npy", dtype, OLD_PROCESSOR)
    difference = np.abs(here.astype(int) - there)
    assert difference.max() <= most_levels
    psnr = 10 * np.log10(255**2 / np.maximum(np.square(difference).mean((1, 2, 3)), 1e-9))
    assert psnr.min() >= least_psnr_db
    assert np.ptp(here) > 100, "nothing to see"
    assert dtype == "float32" or difference.any(), "16 bits do not hide another order of sums"
