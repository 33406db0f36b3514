"""Samples of a TIFF file, and the layouts that Pillow misreads.

Tags are those of TIFF 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf). Pillow
13 misreads three layouts without an error: uncompressed planes of other than 8 bits, inverted grey
of 16 bits, and uncompressed YCbCr with subsampled colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from PIL.TiffImagePlugin import TiffImageFile

from cytosynth.image_files.errors import UnreadableImageError

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES_PER_PIXEL = 258, 259, 262, 277
_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE, _PLANAR, _COLOR_MAP = 281, 341, 284, 320
_INK_SET, _SAMPLE_FORMAT, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 332, 339, 530, 532
_EXTRA_SAMPLES, _ASSOCIATED_ALPHA = 338, 1
_INVERTED_GREY, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_UNCOMPRESSED, _OLD_JPEG = 1, 6
_SEPARATE_PLANES = 2
_SCALES = frozenset(2**bits - 1 for bits in range(9, 16))

_REMEDY = "save it as 8-bit RGB"


@dataclass(frozen=True)
class Samples:
    """The samples of an image file.

    Attributes:
        bits: Bits of a stored sample.
        scale: Largest value, if the file states one; None is the full range of ``bits``.
        is_inverted: Whether 0 is white and Pillow leaves the samples so.
    """

    bits: int
    scale: int | None = None
    is_inverted: bool = False


def read_samples(image: TiffImageFile) -> Samples:
    """Reads the tags of an open TIFF file before its pixels.

    Corrects Pillow's plan for separate planes of 16-bit RGB.

    Raises:
        UnreadableImageError: If the tags say what Pillow does not read rightly.
    """
    tags: Any = image.tag_v2
    photometric = _YCBCR if tags.get(_COMPRESSION) == _OLD_JPEG else tags.get(_PHOTOMETRIC)
    if photometric not in (_INVERTED_GREY, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR):
        raise UnreadableImageError(
            f"has a photometric interpretation that is not read ({photometric})", _REMEDY
        )
    if set(tags.get(_SAMPLE_FORMAT, (1,))) != {1}:
        raise UnreadableImageError("has signed or floating-point samples", _REMEDY)
    depths = set(tags.get(_BITS, (1,)))
    if len(depths) != 1:
        raise UnreadableImageError("has samples of different depths", _REMEDY)
    bits = depths.pop()
    if photometric == _PALETTE and max(tags[_COLOR_MAP]) < 256:
        raise UnreadableImageError("has a palette whose 16-bit values are all below 256", _REMEDY)
    if photometric == _CMYK and tags.get(_INK_SET, 1) != 1:
        raise UnreadableImageError("has inks other than CMYK", _REMEDY)
    if tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:
        _check_uncompressed(image, tags, photometric, bits)
    scale = 4095 if bits == 12 else _stated_scale(tags) if bits == 16 else None
    return Samples(bits, scale, is_inverted=photometric == _INVERTED_GREY and bits == 16)


def _stated_scale(tags: Any) -> int | None:
    for tag in (_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE):
        value = tags.get(tag)
        largest = max(value) if isinstance(value, tuple) else value
        if largest in _SCALES:  # another value is a statistic of the samples
            return int(largest)
    return None


def _check_uncompressed(image: TiffImageFile, tags: Any, photometric: int, bits: int) -> None:
    """Checks what Pillow's own reader does; libtiff reads the compressed files."""
    if photometric == _YCBCR:
        reference = tuple(tags.get(_REFERENCE_BLACK_WHITE, ()))
        full_range = reference in ((), (0, 255, 128, 255, 128, 255))
        if tuple(tags.get(_YCBCR_SUBSAMPLING, (2, 2))) != (1, 1) or not full_range:
            raise UnreadableImageError(
                "has uncompressed YCbCr samples that are subsampled or of limited range", _REMEDY
            )
    if tags.get(_PLANAR) != _SEPARATE_PLANES:
        return
    num_planes = tags.get(_SAMPLES_PER_PIXEL, 1)
    if photometric == _RGB and bits == 16 and num_planes == 3 and len(image.tile) % 3 == 0:
        _plan_16_bit_planes(image)
    elif not (bits == 8 and _is_plain(photometric, num_planes, tags.get(_EXTRA_SAMPLES, ()))):
        raise UnreadableImageError("has its samples in separate planes", _REMEDY)


def _is_plain(photometric: int, num_planes: int, extra_samples: tuple[int, ...]) -> bool:
    """Whether Pillow's one letter for each plane names its reader."""
    if photometric in (_RGB, _CMYK):
        return _ASSOCIATED_ALPHA not in extra_samples
    return photometric in (_GREY, _PALETTE) and num_planes == 1


def _plan_16_bit_planes(image: TiffImageFile) -> None:
    """Gives every tile the reader of its plane.

    Pillow's plan takes a letter of "RGB;16L" as the reader.
    """
    order = "B" if image.tag_v2.prefix == b"MM" else "L"
    per_plane = len(image.tile) // 3
    for number, tile in enumerate(image.tile):
        _, stride, direction = cast(tuple[str, int, int], tile.args)
        reader = f"{'RGB'[number // per_plane]};16{order}"
        image.tile[number] = tile._replace(args=(reader, stride, direction))
