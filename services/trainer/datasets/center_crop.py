"""Estimates a dataset's centre crop from the sizes of its nuclei.

Laboratories cut their cells out differently: in one set the nucleus fills the image, in the next
the cell is a quarter of it. The bases were trained on cells of one apparent size, so images are
cropped to it; one share for all keeps differences in size between cells, which are diagnostic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from services.common.images.codec import ImageLimits, decode_image

#: Median nucleus diameter as a share of the kept edge, as in the cells the bases learned from.
NUCLEUS_SHARE = 0.58
SMALLEST_CROP = 0.5
#: Training images that the crop is estimated from, at most.
MAX_CROP_IMAGES = 200
_WORK_SIDE = 96
#: Nuclei outside these shares of the edge count as failures of the segmentation.
_PLAUSIBLE = (0.08, 0.85)


def crop_sample(digests: Sequence[str]) -> Sequence[str]:
    """Training images for the crop's estimate, spread evenly over all."""
    return digests[:: max(1, len(digests) // MAX_CROP_IMAGES)]


def crop_of_files(files: Iterable[bytes], limits: ImageLimits) -> float:
    """As ``estimate_center_crop``, from encoded files, rounded to three digits."""
    arrays = [decode_image(data, "image.data", limits) for data in files]
    return round(float(estimate_center_crop(arrays)), 3)


def estimate_center_crop(images: Sequence[NDArray[np.uint8]]) -> float:
    """Share of the shorter edge to keep, ``SMALLEST_CROP`` to 1.

    Args:
        images: uint8 (H, W, 3) each, of any size; 1 if no nucleus is found in them.
    """
    shares = [nucleus_share(image) for image in images]
    plausible = [share for share in shares if _PLAUSIBLE[0] <= share <= _PLAUSIBLE[1]]
    if not plausible:
        return 1.0
    return float(np.clip(np.median(plausible) / NUCLEUS_SHARE, SMALLEST_CROP, 1.0))


def nucleus_share(image: NDArray[np.uint8]) -> float:
    """Diameter of the central nucleus over the shorter edge; 0 without one."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    pixels = np.asarray(square.resize((_WORK_SIDE, _WORK_SIDE)), dtype=np.float32)
    # Nuclei take up red and green light; red cells and cytoplasm let red through.
    dark = ndimage.gaussian_filter(255.0 - (0.6 * pixels[..., 0] + 0.4 * pixels[..., 1]), 1.0)
    mask = dark > _otsu(dark)
    mask = ndimage.binary_opening(mask, iterations=2)
    labels, num_found = ndimage.label(mask)
    if num_found == 0:
        return 0.0
    # Lobes of one nucleus may lie apart: all that reach into the middle count together.
    row, column = np.indices(labels.shape) - (_WORK_SIDE - 1) / 2
    middle = np.hypot(row, column) < 0.2 * _WORK_SIDE
    central = np.unique(labels[middle & mask])
    if central.size == 0:
        return 0.0
    area = float(np.isin(labels, central).sum())
    return 2.0 * float(np.sqrt(area / np.pi)) / _WORK_SIDE


def _otsu(values: NDArray[np.float32]) -> float:
    """Threshold that parts values into the two tightest groups (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=64)
    centres = (edges[:-1] + edges[1:]) / 2
    weight = np.cumsum(counts)
    total = weight[-1]
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * weight / total - mass) ** 2 / (weight * (total - weight))
    return float(centres[int(np.argmax(np.nan_to_num(between[:-1], posinf=0.0)))])
