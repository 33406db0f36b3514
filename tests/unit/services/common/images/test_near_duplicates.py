"""Near-duplicates are recognized in every orientation, and the hashes survive their file."""

from __future__ import annotations

import numpy as np
import pytest

from services.common.errors import DataLoss
from services.common.images.near_duplicates import (
    NEAR_DUPLICATE_BITS,
    NearDuplicateHashes,
    is_near_duplicate,
    nearest_bits,
    orientations,
    training_hashes,
)

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 80, 80, 3)).astype(np.uint8)


def test_hashes_are_read_as_they_were_written() -> None:
    hashes = NearDuplicateHashes.of(IMAGES)
    read = NearDuplicateHashes.from_json(hashes.to_json())
    assert (read.known == hashes.known).all() and len(read.known) == 24
    assert (read.size_px, read.max_bits) == (64, NEAR_DUPLICATE_BITS)
    assert all(read.find(np.rot90(image)[:, ::-1]) for image in IMAGES)
    assert not NearDuplicateHashes.of(IMAGES[:0]).find(IMAGES[0])


@pytest.mark.parametrize("data", [b"", b"[]", b'{"hashes": ["not hex"]}', b'{"hashes": []}'])
def test_damaged_hashes_are_data_loss(data: bytes) -> None:
    with pytest.raises(DataLoss, match=r"near_copy_hashes\.json cannot be read"):
        NearDuplicateHashes.from_json(data)


def test_eight_orientations_begin_with_the_image_itself() -> None:
    found = orientations(IMAGES[0])
    np.testing.assert_array_equal(found[0], IMAGES[0])
    assert len({each.tobytes() for each in found}) == 8


def test_image_is_as_near_as_its_nearest_hash() -> None:
    known = training_hashes(IMAGES[:2])
    assert nearest_bits(IMAGES[1], known) == 0 and is_near_duplicate(IMAGES[1], known)
    assert nearest_bits(IMAGES[2], known) > NEAR_DUPLICATE_BITS
    assert nearest_bits(IMAGES[0], known[:0]) == 64
