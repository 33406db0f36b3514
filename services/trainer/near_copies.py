"""Finds synthetic images that are near-copies of training images, by perceptual hash."""

from __future__ import annotations

import numpy as np

from services.common.images import perceptual_hash
from services.trainer.few_shot import NEAR_COPY_BITS

METHOD = "64-bit perceptual hash against every training image in its 8 orientations"


def training_hashes(images: np.ndarray) -> np.ndarray:
    """Perceptual hashes (uint64) of images (N, H, W, 3) in all 8 orientations."""
    return np.array(
        [
            int(perceptual_hash(np.ascontiguousarray(np.rot90(flipped, turns))), 16)
            for image in images
            for flipped in (image, image[:, ::-1])
            for turns in range(4)
        ],
        dtype=np.uint64,
    )


def is_near_copy(image: np.ndarray, known: np.ndarray) -> bool:
    """Whether an image (H, W, 3) is at most ``NEAR_COPY_BITS`` away from one of ``known``."""
    distance = np.bitwise_count(known ^ np.uint64(int(perceptual_hash(image), 16)))
    return bool(np.any(distance <= NEAR_COPY_BITS))
