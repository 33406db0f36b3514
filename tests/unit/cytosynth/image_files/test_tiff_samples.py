"""TIFF files are read rightly in every stated layout, or refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cytosynth.image_files.decoding import decode_rgb
from cytosynth.image_files.errors import UnreadableImageError
from tests.support.image_files.tiff_files import tiff_file

SMALL = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
RGB = np.asarray(Image.fromarray(SMALL).resize((40, 30))).copy()
GREY = RGB[..., 1].copy()
OPAQUE = np.full_like(GREY, 255)
INVERTED_GREY, IS_GREY, IS_RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
BYTE, SHORT, LONG, RATIONAL = 1, 3, 4, 5


def in_16_bits(array: np.ndarray) -> np.ndarray:
    return array.astype(np.uint16) * 257


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def read(samples: np.ndarray, **file: Any) -> np.ndarray:
    return decode_rgb(tiff_file(samples, **file), "image")


def refusal(samples: np.ndarray, **file: Any) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read(samples, **file)
    assert "8-bit RGB" in caught.value.remedy
    return caught.value.problem


@pytest.mark.parametrize("num_strips", [1, 3])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_is_read_in_every_layout(
    bits: int, order: str, separate: bool, deflate: bool, num_strips: int
) -> None:
    samples = RGB if bits == 8 else in_16_bits(RGB)
    array = read(
        samples,
        photometric=IS_RGB,
        order=order,
        separate=separate,
        deflate=deflate,
        num_strips=num_strips,
    )
    np.testing.assert_array_equal(array, RGB)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("photometric", [INVERTED_GREY, IS_GREY])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_is_read_whether_0_is_black_or_white(
    bits: int, order: str, photometric: int, deflate: bool
) -> None:
    samples = GREY if bits == 8 else in_16_bits(GREY)
    file = {"photometric": photometric, "order": order, "deflate": deflate}
    if (bits, order, photometric) == (16, ">", INVERTED_GREY):
        refusal(samples, **file)
    else:
        expected = GREY if photometric == IS_GREY else 255 - GREY
        np.testing.assert_array_equal(read(samples, **file), as_rgb(expected))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tag", [281, 341])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_stated_scale_of_grey_is_honoured(bits: int, tag: int, order: str) -> None:
    top = 2**bits - 1
    samples = (GREY.astype(np.uint32) * top // 255).astype(np.uint16)
    array = read(samples, photometric=IS_GREY, order=order, tags={tag: (SHORT, [top])})
    np.testing.assert_allclose(array, as_rgb(GREY), atol=1)


def test_stated_scale_of_inverted_grey_is_honoured() -> None:
    samples = GREY.astype(np.uint16) * 16
    array = read(samples, photometric=INVERTED_GREY, tags={281: (SHORT, [4095])})
    np.testing.assert_allclose(array, as_rgb(255 - GREY), atol=1)


def test_samples_beyond_the_stated_scale_are_refused() -> None:
    problem = refusal(in_16_bits(GREY), photometric=IS_GREY, tags={281: (SHORT, [4095])})
    assert "states a largest sample of 4095 but has one of" in problem


@pytest.mark.parametrize("value", [3870, 65535])
def test_largest_value_that_is_no_scale_is_a_statistic(value: int) -> None:
    tags = {281: (SHORT, [value])}
    assert "does not state their scale" in refusal(
        GREY.astype(np.uint16) * 15, photometric=IS_GREY, tags=tags
    )
    array = read(in_16_bits(GREY), photometric=IS_GREY, tags=tags)
    np.testing.assert_array_equal(array, as_rgb(GREY))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_colour_of_12_bits_in_16_is_refused(deflate: bool, separate: bool) -> None:
    samples = RGB.astype(np.uint16) * 16
    file = {"photometric": IS_RGB, "deflate": deflate, "separate": separate}
    assert "none above 16383" in refusal(samples, **file)
    stated = refusal(samples, tags={281: (SHORT, [4095] * 3)}, **file)
    assert "reach 4095 only" in stated


def test_packed_12_bit_grey_fills_its_range() -> None:
    ramp = np.linspace(0, 4095, 40).round().astype(np.uint16)
    even, odd = ramp[::2], ramp[1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], -1).astype(np.uint8)
    rows = np.tile(packed.reshape(1, 60), (30, 1))
    tags = {256: (LONG, [40]), 258: (SHORT, [12])}
    array = read(rows, photometric=IS_GREY, tags=tags)
    np.testing.assert_allclose(array[7, :, 0], ramp * (255 / 4095), atol=0.5)


@pytest.mark.parametrize("sample_format", [2, 3, 4])
@pytest.mark.parametrize("samples", [GREY, in_16_bits(GREY), RGB])
def test_signed_and_floating_samples_are_refused(samples: np.ndarray, sample_format: int) -> None:
    photometric = IS_RGB if samples.ndim == 3 else IS_GREY
    refusal(samples, photometric=photometric, tags={339: (SHORT, [sample_format])})


@pytest.mark.parametrize("type", [np.int32, np.uint32, np.float32])
def test_samples_of_32_bits_are_refused(type: Any) -> None:
    format = {np.uint32: 1, np.int32: 2, np.float32: 3}[type]
    refusal(GREY.astype(type), photometric=IS_GREY, tags={339: (SHORT, [format])})


def test_file_that_does_not_say_what_its_samples_mean_is_refused() -> None:
    assert "photometric interpretation" in refusal(GREY, photometric=None)


def test_cielab_is_refused() -> None:
    refusal(RGB, photometric=CIELAB)


def test_inks_other_than_cmyk_are_refused() -> None:
    inks = np.dstack([255 - RGB, np.zeros_like(GREY)])
    np.testing.assert_array_equal(read(inks, photometric=CMYK), RGB)
    assert "inks" in refusal(inks, photometric=CMYK, tags={332: (SHORT, [2])})


def test_palette_of_16_bits_is_read_and_one_of_8_bits_is_refused() -> None:
    levels = np.arange(256)
    colors = np.concatenate([levels, 255 - levels, levels // 2])
    array = read(GREY, photometric=PALETTE, tags={320: (SHORT, (colors * 257).tolist())})
    np.testing.assert_array_equal(array, np.stack([GREY, 255 - GREY, GREY // 2], -1))
    problem = refusal(GREY, photometric=PALETTE, tags={320: (SHORT, colors.tolist())})
    assert "palette" in problem


def test_ycbcr_is_read_unless_its_colour_is_subsampled() -> None:
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    array = read(ycbcr, photometric=YCBCR, tags={530: (SHORT, [1, 1])})
    np.testing.assert_allclose(array, RGB, atol=3)
    assert "YCbCr" in refusal(ycbcr, photometric=YCBCR)  # without the tag it is 2, 2
    limited = {
        530: (SHORT, [1, 1]),
        532: (RATIONAL, [15, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1]),
    }
    assert "limited range" in refusal(ycbcr, photometric=YCBCR, tags=limited)


@pytest.mark.parametrize(("extra", "taken"), [(0, False), (1, False), (2, True)])
def test_separate_planes_with_alpha_are_read_or_refused(extra: int, taken: bool) -> None:
    samples = np.dstack([RGB, OPAQUE])
    file: dict[str, Any] = {
        "photometric": IS_RGB,
        "separate": True,
        "tags": {338: (SHORT, [extra])},
    }
    if taken:
        np.testing.assert_array_equal(read(samples, **file), RGB)
    else:
        refusal(samples, **file)
    refusal(in_16_bits(samples), **file)


@pytest.mark.parametrize("extra", [1, 2])
def test_grey_with_alpha_is_laid_over_white(extra: int) -> None:
    alpha = OPAQUE.copy()
    alpha[:10] = 0
    shown = np.where(alpha == 0, 0, GREY).astype(np.uint8) if extra == 1 else GREY
    array = read(np.dstack([shown, alpha]), photometric=IS_GREY, tags={338: (SHORT, [extra])})
    np.testing.assert_array_equal(array[10:], as_rgb(GREY)[10:])
    assert (array[:10] == 255).all()


def test_premultiplied_alpha_of_0_leaves_no_picture() -> None:
    samples = np.dstack([np.zeros_like(RGB), np.zeros_like(GREY)])
    with pytest.raises(UnreadableImageError, match="transparent everywhere"):
        read(samples, photometric=IS_RGB, tags={338: (SHORT, [1])})


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_colour_is_read(compression: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", compression=compression)
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue(), "image"), RGB)
