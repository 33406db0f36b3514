"""Sheets of cells for report pages, and a search for near-duplicates."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from services.common.images.codec import center_square, decode_image, encode_image
from services.common.images.near_duplicates import (
    METHOD,
    NEAR_DUPLICATE_BITS,
    is_near_duplicate,
    training_hashes,
)
from services.common.resource_names import IMAGE_SETS
from services.trainer.classifiers.image_sets import read_image_set
from services.trainer.datasets.reading import load_images

if TYPE_CHECKING:
    from services.trainer.jobs.context import JobContext

_TILE_PX = 72
_TILES_PER_ROW = 4
_TILES = 8


class NearDuplicateSearch(TypedDict, total=False):
    """Synthetic images that are near-duplicates of training images; empty without image sets."""

    num_near_copies: int
    num_searched: int
    max_bits: int
    method: str


@dataclass(frozen=True)
class CellSheets:
    """Sheets of images that the page shows.

    Attributes:
        real, synthetic: A PNG sheet (data URI) by class id.
        num_synthetic: Synthetic images in all image sets.
        near_duplicates: How many synthetic images are near-duplicates of training images.
    """

    real: dict[str, str] = field(default_factory=dict)
    synthetic: dict[str, str] = field(default_factory=dict)
    num_synthetic: int = 0
    near_duplicates: NearDuplicateSearch = field(default_factory=NearDuplicateSearch)


def sample_cells(
    dataset_id: str, image_set_ids: list[str], max_searched_per_class: int, ctx: JobContext
) -> CellSheets:
    """Sheets of training and synthetic cells, and a count of near-duplicates.

    The first images are shown, not the best.
    """
    real = load_images(ctx.store, ctx.tenant, dataset_id, "train", _TILE_PX, ctx.settings)
    class_ids = sorted(set(real.class_ids))
    sheets = {
        c: sheet([a for a, k in zip(real.images, real.class_ids, strict=True) if k == c][:_TILES])
        for c in class_ids
    }
    num_synthetic, num_searched, num_copies = 0, 0, 0
    synthetic: dict[str, str] = {}
    known = training_hashes(real.images) if image_set_ids else np.zeros(0, np.uint64)
    for image_set_id in image_set_ids:
        manifest = ctx.store.get_manifest(ctx.tenant, IMAGE_SETS, image_set_id)
        num_synthetic += manifest["body"]["num_images"]
        found = read_image_set(ctx.store, ctx.tenant, image_set_id, max_searched_per_class)
        for class_id, files in sorted(found.items()):
            arrays = []
            for number, data in enumerate(files):
                ctx.progress("reading cells", num_searched, 0, {})
                array = center_square(decode_image(data, f"image {number}"), 1.0, _TILE_PX)
                arrays.append(array)
                num_searched += 1
                num_copies += is_near_duplicate(array, known)
            synthetic.setdefault(class_id, sheet(arrays[:_TILES]))
    near_duplicates: NearDuplicateSearch = {
        "num_near_copies": num_copies,
        "num_searched": num_searched,
        "max_bits": NEAR_DUPLICATE_BITS,
        "method": METHOD,
    }
    return CellSheets(sheets, synthetic, num_synthetic, near_duplicates if image_set_ids else {})


def sheet(arrays: list[np.ndarray]) -> str:
    """A PNG of tiles in rows of four, as data URI."""
    if not arrays:
        return ""
    gap = 3
    rows = -(-len(arrays) // _TILES_PER_ROW)
    columns = min(len(arrays), _TILES_PER_ROW)
    shape = (rows * (_TILE_PX + gap) - gap, columns * (_TILE_PX + gap) - gap, 3)
    canvas = np.full(shape, 255, np.uint8)
    for number, array in enumerate(arrays):
        y, x = ((_TILE_PX + gap) * part for part in divmod(number, _TILES_PER_ROW))
        canvas[y : y + _TILE_PX, x : x + _TILE_PX] = array
    return "data:image/png;base64," + base64.b64encode(encode_image(canvas)).decode()
