"""Colour spaces become sRGB, or are refused or logged."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from cytosynth.image_files.decoding import decode_rgb
from cytosynth.image_files.errors import UnreadableImageError
from tests.support.image_files.icc_profiles import (
    ADOBE_RGB,
    SRGB,
    grey_profile,
    rgb_profile,
    srgb_of,
    srgb_profile,
)
from tests.support.image_files.tiff_files import tiff_file

COLORS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
ADOBE = rgb_profile(ADOBE_RGB, 2.2)
SRGB_CHRM = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def saved(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(image: Image.Image | np.ndarray, **options: Any) -> np.ndarray:
    return decode_rgb(saved(image, **options), "image")


def adobe_as_srgb(colors: np.ndarray) -> np.ndarray:
    light = (colors / 255) ** 2.2
    return srgb_of(light @ (np.linalg.inv(SRGB) @ ADOBE_RGB).T)


@pytest.mark.parametrize("format", LOSSLESS)
def test_adobe_rgb_becomes_srgb(format: str) -> None:
    array = read(COLORS, format=format, icc_profile=ADOBE, **LOSSLESS[format])
    np.testing.assert_allclose(array, adobe_as_srgb(COLORS), atol=1.5)
    assert np.abs(array.astype(int) - COLORS).max() > 40


def test_profile_of_a_jpeg_becomes_srgb() -> None:
    smooth = np.asarray(Image.fromarray(COLORS[:3, :3]).resize((64, 64)))
    plain, tagged = (
        read(smooth, format="JPEG", quality=95, **o) for o in ({}, {"icc_profile": ADOBE})
    )
    np.testing.assert_allclose(tagged, adobe_as_srgb(plain), atol=1.5)


def test_profile_of_a_bitmap_becomes_srgb() -> None:
    plain = saved(COLORS, "BMP")
    pixels = plain[54:]
    header = struct.pack("<IiiHHIIiiII", 124, 16, 16, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    header += b"\0" * 16 + b"DEBM" + b"\0" * 48
    header += struct.pack("<IIII", 4, 124 + len(pixels), len(ADOBE), 0)
    data = struct.pack("<2sIHHI", b"BM", 138 + len(pixels) + len(ADOBE), 0, 0, 138)
    array = decode_rgb(data + header + pixels + ADOBE, "image")
    np.testing.assert_allclose(array, adobe_as_srgb(COLORS), atol=1.5)


def test_profile_acts_beneath_transparency() -> None:
    alpha = np.full(COLORS.shape[:2], 255, np.uint8)
    alpha[:4] = 0
    array = read(np.dstack([COLORS, alpha]), icc_profile=ADOBE)
    np.testing.assert_allclose(array[4:], adobe_as_srgb(COLORS)[4:], atol=1.5)
    assert (array[:4] == 255).all()


def test_profile_acts_on_the_colours_of_a_palette() -> None:
    palette = Image.fromarray(COLORS).quantize(32)
    array = read(palette, icc_profile=ADOBE)
    np.testing.assert_allclose(array, adobe_as_srgb(np.asarray(palette.convert("RGB"))), atol=1.5)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_profile_of_grey_becomes_srgb(mode: str) -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    image = Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey)
    image = image.convert("LA") if mode == "LA" else image
    array = read(image, icc_profile=grey_profile(1.0))
    np.testing.assert_allclose(array[..., 1], srgb_of(grey / 255), atol=1)


@pytest.mark.parametrize("image", [COLORS, COLORS[..., 0], np.dstack([COLORS, COLORS[..., 1]])])
def test_srgb_profile_leaves_every_bit(image: np.ndarray, caplog: Any) -> None:
    np.testing.assert_array_equal(read(image, icc_profile=srgb_profile()), read(image))
    assert not caplog.records


@pytest.mark.parametrize(
    ("image", "profile"),
    [
        (COLORS, b"no profile"),
        (COLORS, ADOBE[:200]),
        (COLORS, grey_profile(2.2)),
        (Image.fromarray(COLORS).convert("CMYK"), ADOBE),
    ],
)
def test_profile_that_cannot_be_used_is_ignored_and_logged(
    image: Any, profile: bytes, caplog: Any
) -> None:
    array = read(image, format="TIFF", icc_profile=profile)
    np.testing.assert_array_equal(array, read(image, format="TIFF"))
    assert "image: its ICC profile cannot be used and is ignored" in caplog.text


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    data = saved(COLORS)
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return data[:33] + added + data[33:]


def chrm(*values: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values))


def gama(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455), chrm(*SRGB_CHRM)],
        [gama(0.45)],
        [(b"sRGB", b"\0"), gama(1.0)],
        [(b"cICP", bytes((1, 13, 0, 1))), gama(1.0)],
    ],
)
def test_png_that_states_srgb_keeps_every_bit(chunks: list[tuple[bytes, bytes]]) -> None:
    np.testing.assert_array_equal(decode_rgb(png_with(*chunks), "image"), COLORS)


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([gama(1.0)], "gamma of 1"),
        ([chrm(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)], "primary colours"),
        ([(b"cICP", bytes((9, 16, 0, 1)))], "cICP"),
    ],
)
def test_png_that_states_other_colours_is_refused(
    chunks: list[tuple[bytes, bytes]], problem: str
) -> None:
    with pytest.raises(UnreadableImageError, match=problem) as caught:
        decode_rgb(png_with(*chunks), "image")
    assert caught.value.remedy == "save it as sRGB"


def test_damaged_profile_of_a_png_is_logged(caplog: Any) -> None:
    data = png_with((b"iCCP", b"name\0\0no zlib"))
    np.testing.assert_array_equal(decode_rgb(data, "image"), COLORS)
    assert "image: its ICC profile is damaged and is ignored" in caplog.text


@pytest.mark.parametrize(("index", "taken"), [("R98", True), ("R03", False)])
def test_camera_file_that_states_adobe_rgb_needs_a_profile(index: str, taken: bool) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[int(ExifTags.IFD.Interop)] = {1: index, 2: b"0100"}
    plain = read(COLORS, format="JPEG")
    if taken:
        np.testing.assert_array_equal(read(COLORS, format="JPEG", exif=exif), plain)
        return
    with pytest.raises(UnreadableImageError, match="Adobe RGB") as caught:
        read(COLORS, format="JPEG", exif=exif)
    assert caught.value.remedy == "save it as sRGB"
    tagged = read(COLORS, format="JPEG", exif=exif, icc_profile=ADOBE)
    np.testing.assert_allclose(tagged, adobe_as_srgb(plain), atol=1.5)


def test_tiff_that_states_other_primaries_is_refused() -> None:
    def tags(*values: float) -> dict[int, Any]:
        return {319: (5, [n for value in values for n in (round(value * 1000), 1000)])}

    same = tiff_file(COLORS, photometric=2, tags=tags(*SRGB_CHRM[2:]))
    np.testing.assert_array_equal(decode_rgb(same, "image"), COLORS)
    wide = tiff_file(COLORS, photometric=2, tags=tags(0.64, 0.33, 0.21, 0.71, 0.15, 0.06))
    with pytest.raises(UnreadableImageError, match="primary colours"):
        decode_rgb(wide, "image")
