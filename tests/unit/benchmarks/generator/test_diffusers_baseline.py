"""The baseline script works with the base that ships."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.generator.diffusers_baseline import BATCH, DTYPES, BaselineScript
from benchmarks.generator.in_process import BASE, MODELS
from benchmarks.generator.run import make_adapters


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_png_files_of_cells(tmp_path: Path, dtype: str) -> None:
    [(class_id, weights)] = make_adapters(["lymphocyte"]).items()
    script = BaselineScript(MODELS / BASE, {class_id: weights}, dtype, 1)
    with torch.inference_mode():
        script.generate(script.load(tmp_path, weights), class_id, tmp_path, num_steps=8)
    files = sorted(tmp_path.glob("*.png"))
    assert len(files) == BATCH
    for file in files:
        pixels = np.asarray(Image.open(file), np.float32)
        assert pixels.shape == (64, 64, 3)
        # A stained nucleus in a pale smear: the middle is darker than the corners.
        corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
        assert pixels[24:40, 24:40].mean() < corners - 30
