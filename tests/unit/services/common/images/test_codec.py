"""Strangers' files: each is decoded rightly or refused with its field and a remedy."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images.codec import (
    FORMATS,
    ImageLimits,
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


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(data: bytes, **limits: int) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        decode_image(data, "images[3]", ImageLimits(**limits))
    assert caught.value.field == "images[3]"
    assert caught.value.remedy
    return caught.value


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes inflate to."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min((width // 8 + 1) * height, 20_000_000), 9)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_taken_format_becomes_rgb(format):
    array = decode_image(encoded(SMOOTH, format), "image")
    assert array.shape == (30, 40, 3)
    assert array.dtype == np.uint8
    tolerance = 12 if format in ("JPEG", "WEBP") else 0
    assert np.abs(array.astype(int) - SMOOTH).mean() <= tolerance


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ],
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.8, 0.95])
def test_truncated_file_is_refused(format, options, share):
    data = encoded(SMOOTH, format, **options)
    refusal(data[: int(len(data) * share)])


def test_flipped_bytes_in_a_png_are_noticed():
    data = bytearray(encoded(SMOOTH))
    data[len(data) // 2] ^= 0xFF
    assert "damaged" in refusal(bytes(data)).problem


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 1000, b"GIF89a", b"%PDF-1.7", b"<svg/>", "Äpfel".encode(), b"\x89PNG\r\n\x1a\n"],
)
def test_file_that_is_no_image_is_refused(data):
    refusal(data)


@pytest.mark.parametrize("format", ["GIF", "ICO", "PPM", "TGA", "PDF"])
def test_other_formats_are_refused(format):
    assert "PNG" in refusal(encoded(Image.fromarray(SMOOTH).convert("RGB"), format)).remedy


def test_one_pixel_is_refused():
    assert "1x1" in refusal(encoded(np.zeros((1, 1, 3), np.uint8))).problem
    assert "40x7" in refusal(encoded(np.zeros((7, 40, 3), np.uint8))).problem


def test_too_many_bytes_are_refused():
    assert "100" in refusal(encoded(SMOOTH), max_bytes=100).problem


@pytest.mark.parametrize(("width", "height"), [(8000, 8000), (60_000, 60_000), (2**30, 8)])
def test_decompression_bomb_is_refused_by_its_header(width, height, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("pixels were decoded"))
    assert "pixels" in refusal(png_of_size(width, height)).problem


def test_text_bomb_in_a_png_is_refused():
    data = png_of_size(16, 16)
    bomb = b"comment\0\0" + zlib.compress(b"a" * 20_000_000, 9)
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    refusal(data[:33] + chunk + data[33:])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(format):
    others = [Image.fromarray(255 - SMOOTH), Image.fromarray(SMOOTH)]
    data = encoded(SMOOTH, format, save_all=True, append_images=others)
    assert "more than one frame" in refusal(data).problem


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_scale(format):
    ramp = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (16, 1))
    array = decode_image(encoded(Image.fromarray(ramp), format), "image")
    assert (array[..., 0] == array[..., 2]).all()
    assert np.abs(array[0, :, 0] - ramp[0] / 257).max() <= 0.5


def test_16_bit_colour_keeps_its_scale():
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + struct.pack(">HHH", 65535, 32896, 0) * 16) * 16)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    assert decode_image(data, "image")[5, 5].tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "P")),
        *(("TIFF", mode) for mode in ("1", "L", "P", "CMYK")),
        *(("JPEG", mode) for mode in ("L", "CMYK")),
    ],
)
def test_other_colour_modes_become_rgb(format, mode):
    image = Image.fromarray(SMOOTH).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    array = decode_image(encoded(image, format), "image")
    assert array.shape == (30, 40, 3)
    assert np.abs(array.astype(int) - expected).mean() < 12


def test_transparency_is_laid_over_white():
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:8] = (10, 20, 30, 255)
    array = decode_image(encoded(clear), "image")
    assert array[0, 0].tolist() == [10, 20, 30]
    assert array[15, 15].tolist() == [255, 255, 255]


def test_float_samples_are_refused():
    data = encoded(Image.fromarray(np.zeros((16, 16), np.float32)), "TIFF")
    assert "8-bit RGB" in refusal(data).remedy


def test_camera_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6
    array = decode_image(encoded(SMOOTH, "JPEG", exif=exif.tobytes()), "image")
    assert array.shape == (40, 30, 3)


def test_damaged_exif_does_not_matter():
    data = encoded(SMOOTH, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert decode_image(data, "image").shape == (30, 40, 3)


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
