"""The few image operations that the services share."""

import numpy as np
import pytest
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images.codec import (
    center_square,
    decode_image,
    encode_image,
    hamming,
    is_marked_synthetic,
    perceptual_hash,
    sha256_hex,
)

RNG = np.random.default_rng(0)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((40, 30))
).copy()


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "is empty"), (b"%PDF-1.7", "is not an image"), (b"II*\0" * 9, "is a TIFF file that")],
)
def test_refused_file_names_its_field_and_a_remedy(data, problem):
    with pytest.raises(InvalidArgument) as caught:
        decode_image(data, "images[3].data")
    error = caught.value
    assert error.field == "images[3].data" and error.problem.startswith(problem) and error.remedy


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_lossless_formats_come_back_bit_for_bit(format):
    assert (decode_image(encode_image(SMOOTH, format), "image") == SMOOTH).all()


def test_jpeg_comes_back_nearly():
    back = decode_image(encode_image(SMOOTH, "JPEG"), "image")
    assert np.abs(back.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_synthetic_image_says_so_and_looks_the_same(format):
    plain, marked = (encode_image(SMOOTH, format, synthetic=s) for s in (False, True))
    assert is_marked_synthetic(marked) and not is_marked_synthetic(plain)
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in marked
    both = [decode_image(data, "image") for data in (plain, marked)]
    np.testing.assert_array_equal(*both)
    assert encode_image(SMOOTH, format, synthetic=True) == marked


def test_center_square_keeps_the_middle():
    array = np.zeros((30, 50, 3), np.uint8)
    array[10:20, 20:30] = 200
    assert (center_square(array, 1 / 3, 10) == 200).all()
    assert center_square(array, 1.0, 64).shape == (64, 64, 3)
    assert center_square(array, 1.0, 30).flags.c_contiguous


def test_perceptual_hash_sees_through_small_changes_only():
    brighter = np.clip(SMOOTH.astype(int) + 6, 0, 255).astype(np.uint8)
    other = np.ascontiguousarray(SMOOTH[:, ::-1])
    assert len(perceptual_hash(SMOOTH)) == 16
    assert hamming(perceptual_hash(SMOOTH), perceptual_hash(brighter)) <= 4
    assert hamming(perceptual_hash(SMOOTH), perceptual_hash(other)) > 16


def test_digest_is_sha256():
    assert sha256_hex(b"abc").startswith("ba7816bf8f01cfea")
