"""Cells of a review are read by the rule of the services."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytosynth.client.errors import CytosynthError
from cytosynth.client.image_tree import ImageFile
from cytosynth.image_files.decoding import decode_rgb
from cytosynth.review.cell_image import read_cell
from tests.support.image_files.icc_profiles import ADOBE_RGB, rgb_profile
from tests.support.image_files.tiff_files import tiff_file

COLORS = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)


def image_file(path: Path, data: bytes = b"") -> ImageFile:
    if data:
        path.write_bytes(data)
    return ImageFile(path, f"monocyte/{path.name}", "monocyte")


def test_alpha_that_hides_the_cell_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "hidden.png"
    Image.fromarray(np.dstack([COLORS, np.zeros((40, 40), np.uint8)])).save(path)
    _, square = read_cell(image_file(path), 0.5)
    np.testing.assert_array_equal(square, COLORS[10:30, 10:30])


def test_profile_and_separate_planes_are_read_as_in_the_services(tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.png"
    Image.fromarray(COLORS).save(tagged, icc_profile=rgb_profile(ADOBE_RGB, 2.2))
    data, square = read_cell(image_file(tagged), 1.0)
    np.testing.assert_array_equal(square, decode_rgb(data, "image"))
    assert (square != COLORS).any()
    deep = tiff_file(COLORS.astype(np.uint16) * 257, photometric=2, separate=True)
    np.testing.assert_array_equal(read_cell(image_file(tmp_path / "a.tif", deep), 1.0)[1], COLORS)


def test_camera_values_of_12_bits_are_refused_by_the_file_s_name(tmp_path: Path) -> None:
    data = tiff_file(COLORS[..., 0].astype(np.uint16) * 16, photometric=1)
    with pytest.raises(CytosynthError, match=r"monocyte/deep\.tif.*16-bit samples.*8-bit RGB"):
        read_cell(image_file(tmp_path / "deep.tif", data), 1.0)
