"""Finds near-duplicates of training images by perceptual hash.

An adapter keeps the hashes of its training images (``near_copy_hashes.json``), so that the
generator recognizes a near-duplicate without holding an image of a patient.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import DataLoss
from services.common.images.codec import RgbImage, center_square, perceptual_hash

NEAR_DUPLICATE_HASHES = "near_copy_hashes.json"
"""File of an adapter with the hashes of its training images."""
NEAR_DUPLICATE_BITS = 6
"""Perceptual hashes (64 bits) at most this far apart count as near-duplicates. Among 5,600 white
blood cells of three laboratories, re-crops of one cell differ by 2 to 6 bits and different cells
by 8 or more. A false alarm keeps two images in one split, or generates an image again."""
HASH_PX = 64
"""Size at which images are compared for near-duplicates, pixels."""
METHOD = "64-bit perceptual hash against every training image in its 8 orientations"


def orientations(image: RgbImage) -> list[RgbImage]:
    """The 8 orientations of an image (H, W, 3), itself first.

    Four rotations by quarter turns, and the same of the mirror image.
    """
    return [
        np.ascontiguousarray(np.rot90(flipped, quarters))
        for flipped in (image, image[:, ::-1])
        for quarters in range(4)
    ]


def training_hashes(images: np.ndarray) -> NDArray[np.uint64]:
    """Perceptual hashes of images in all orientations.

    Images are (N, H, W, 3), hashes uint64 (8 N,).
    """
    hashes = [perceptual_hash(each) for image in images for each in orientations(image)]
    return np.array([int(each, 16) for each in hashes], dtype=np.uint64)


def nearest_bits(image: RgbImage, known: NDArray[np.uint64]) -> int:
    """Bits from an image's hash to the nearest known; 64 without any."""
    own = np.uint64(int(perceptual_hash(image), 16))
    return int(np.bitwise_count(known ^ own).min(initial=64))


def is_near_duplicate(image: RgbImage, known: NDArray[np.uint64]) -> bool:
    """Whether an image (H, W, 3) nearly duplicates one of ``known``."""
    return nearest_bits(image, known) <= NEAR_DUPLICATE_BITS


@dataclass(frozen=True)
class NearDuplicateHashes:
    """Hashes by which near-duplicates of an adapter's training images are recognized.

    Attributes:
        known: Hashes (uint64) in all orientations, at ``size_px``.
        size_px: Size at which images are hashed, pixels.
        max_bits: Most differing bits of a near-duplicate. Kept with the hashes, so that an adapter
            generates the same images when the default of this module changes.
    """

    known: NDArray[np.uint64]
    size_px: int = HASH_PX
    max_bits: int = NEAR_DUPLICATE_BITS

    @staticmethod
    def of(images: np.ndarray) -> NearDuplicateHashes:
        """Hashes square training images, uint8 (N, S, S, 3)."""
        squares = [center_square(image, 1.0, HASH_PX) for image in images]
        return NearDuplicateHashes(np.unique(training_hashes(np.array(squares))))

    def find(self, image: RgbImage) -> bool:
        """Whether an image (S, S, 3) nearly duplicates a training image."""
        return nearest_bits(center_square(image, 1.0, self.size_px), self.known) <= self.max_bits

    def to_json(self) -> bytes:
        """Content of the file ``near_copy_hashes.json``."""
        content = {
            "method": METHOD,
            "size_px": self.size_px,
            "max_bits": self.max_bits,
            "hashes": [f"{int(value):016x}" for value in self.known],
        }
        return json.dumps(content, sort_keys=True).encode()

    @staticmethod
    def from_json(data: bytes) -> NearDuplicateHashes:
        """Reads what ``to_json`` wrote.

        Raises:
            DataLoss: If ``data`` is something else.
        """
        try:
            content = json.loads(data)
            known = np.array([int(text, 16) for text in content["hashes"]], np.uint64)
            return NearDuplicateHashes(known, int(content["size_px"]), int(content["max_bits"]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            problem = f"an adapter's {NEAR_DUPLICATE_HASHES} cannot be read"
            raise DataLoss(problem, "fit the adapter again") from error
