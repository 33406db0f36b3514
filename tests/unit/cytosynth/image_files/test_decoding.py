"""Untrusted image files are decoded rightly or refused with a remedy."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cytosynth.image_files.decoding import FORMATS, ImageLimits, decode_rgb
from cytosynth.image_files.errors import UnreadableImageError

RNG = np.random.default_rng(0)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((40, 30))
).copy()


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return decode_rgb(data, "image")


def refusal(data: bytes, **limits: int) -> UnreadableImageError:
    with pytest.raises(UnreadableImageError) as caught:
        decode_rgb(data, "image", ImageLimits(**limits))
    assert caught.value.remedy
    return caught.value


def png_file(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of an IHDR and further chunks, each with its checksum."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [(b"IHDR", header), *chunks, (b"IEND", b"")]
    )


def png_of_size(width: int, height: int) -> bytes:
    """A small PNG that inflates to the size that its header claims."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min((width // 8 + 1) * height, 20_000_000), 9)
    return png_file(header, (b"IDAT", rows))


def png_16_bit(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16-bit samples (H, W, 1 to 4)."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png_file(header, *chunks, (b"IDAT", zlib.compress(rows)))


@pytest.mark.parametrize("format", FORMATS)
def test_every_taken_format_becomes_rgb(format):
    array = decode_rgb(encoded(SMOOTH, format), "image")
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
    array = decode_rgb(encoded(Image.fromarray(ramp), format), "image")
    assert (array[..., 0] == array[..., 2]).all()
    assert np.abs(array[0, :, 0] - ramp[0] / 257).max() <= 0.5


def test_16_bit_colour_keeps_its_scale():
    pixels = np.broadcast_to(np.array([65535, 32896, 0]), (16, 16, 3))
    assert decoded(png_16_bit(pixels))[5, 5].tolist() == [255, 128, 0]


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
    array = decode_rgb(encoded(image, format), "image")
    assert array.shape == (30, 40, 3)
    assert np.abs(array.astype(int) - expected).mean() < 12


def test_transparency_is_laid_over_white():
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:8] = (10, 20, 30, 255)
    array = decode_rgb(encoded(clear), "image")
    assert array[0, 0].tolist() == [10, 20, 30]
    assert array[15, 15].tolist() == [255, 255, 255]


def test_float_samples_are_refused():
    data = encoded(Image.fromarray(np.zeros((16, 16), np.float32)), "TIFF")
    assert "8-bit RGB" in refusal(data).remedy


def test_camera_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6
    array = decode_rgb(encoded(SMOOTH, "JPEG", exif=exif.tobytes()), "image")
    assert array.shape == (40, 30, 3)


def test_damaged_exif_does_not_matter():
    data = encoded(SMOOTH, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert decode_rgb(data, "image").shape == (30, 40, 3)


HIDDEN = {
    "RGBA": lambda alpha: encoded(np.dstack([SMOOTH, alpha])),
    "RGBA TIFF": lambda alpha: encoded(np.dstack([SMOOTH, alpha]), "TIFF"),
    "RGBA WebP": lambda alpha: encoded(
        np.dstack([SMOOTH, alpha]), "WEBP", lossless=True, exact=True
    ),
    "RGBA of 16 bits": lambda alpha: png_16_bit(np.dstack([SMOOTH, alpha]).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("kind", HIDDEN)
def test_alpha_that_hides_the_whole_image_is_ignored(kind, value, caplog):
    array = decoded(HIDDEN[kind](np.full(SMOOTH.shape[:2], value, np.uint8)))
    np.testing.assert_array_equal(array, SMOOTH)
    assert "image: its alpha channel hides the whole image and is ignored" in caplog.text


def test_alpha_that_hides_grey_or_a_palette_is_ignored():
    grey = SMOOTH[..., 1]
    array = decoded(encoded(np.dstack([grey, np.zeros_like(grey)])))
    np.testing.assert_array_equal(array, np.repeat(grey[:, :, None], 3, 2))
    palette = Image.fromarray(SMOOTH).quantize(16)
    data = encoded(palette, transparency=bytes(16))
    np.testing.assert_array_equal(decoded(data), np.asarray(palette.convert("RGB")))


def test_one_visible_pixel_keeps_the_transparency_of_the_others(caplog):
    alpha = np.zeros(SMOOTH.shape[:2], np.uint8)
    alpha[3, 4] = 2
    array = decoded(encoded(np.dstack([SMOOTH, alpha])))
    assert (array[0] == 255).all() and not caplog.records
    expected = SMOOTH[3, 4] * 2 / 255 + 255 * 253 / 255
    assert np.abs(array[3, 4] - expected).max() <= 1


def test_transparent_canvas_without_a_picture_is_refused():
    error = refusal(encoded(np.zeros((16, 16, 4), np.uint8)))
    assert "transparent everywhere" in error.problem and "without an alpha" in error.remedy


def test_transparent_value_of_16_bit_grey_is_laid_over_white():
    grey = np.full((16, 16, 1), 40_000)
    grey[4:] = 20_001
    array = decoded(png_16_bit(grey, (b"tRNS", struct.pack(">H", 20_001))))
    assert array[0, 0].tolist() == [156] * 3 and array[9, 9].tolist() == [255] * 3


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_camera_values_at_the_low_end_of_16_bits_are_refused(bits, channels):
    pixels = RNG.integers(0, 2**bits, (16, 16, channels))
    if channels in (2, 4):
        pixels[..., -1] = 65535
    error = refusal(png_16_bit(pixels))
    assert "none above 16383" in error.problem and "8-bit RGB" in error.remedy


@pytest.mark.parametrize("channels", [1, 3])
def test_dark_16_bit_image_with_a_sample_above_a_quarter_is_read(channels):
    pixels = RNG.integers(0, 4096, (16, 16, channels))
    pixels[3, 3] = 16_640
    array = decoded(png_16_bit(pixels))
    assert np.abs(array - pixels / 257).max() <= 1


def test_significant_bits_of_a_png_do_not_change_its_scale():
    pixels = RNG.integers(0, 4096, (16, 16, 1)) * 16
    plain, stated = png_16_bit(pixels), png_16_bit(pixels, (b"sBIT", b"\x0c"))
    np.testing.assert_array_equal(decoded(stated), decoded(plain))
