"""Colour spaces of image files: embedded ICC profiles become sRGB.

Conversion is relative colorimetric with black-point compensation: white stays white, and colours
that sRGB holds are kept. A profile that moves no colour by more than ``SAME_COLOR`` levels is taken
for sRGB, and the pixels stay as they are. A profile that cannot be read, or is of another kind of
image, is ignored, which the caller is told, as in browsers.

A file without a profile may state its colours otherwise: a PNG by cICP, or by gAMA and cHRM; a TIFF
by its primaries; a camera's JPEG by the EXIF interoperability index "R03", which is Adobe RGB.
What differs from sRGB there is refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

from cytosynth.image_files.errors import UnreadableImageError

SAME_COLOR = 3
"""Levels of 255 by which a profile may move a colour and still count as sRGB."""

_SRGB_GAMMA = 0.45455
_SRGB_WHITE = (0.3127, 0.329)
_SRGB_PRIMARIES = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_SRGB_CICP = (1, 13, 0, 1)
_TIFF_PRIMARIES = 319
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
GREY_MODES = ("1", "L", "LA", "La")
_INTEROPERABILITY_INDEX, _ADOBE_RGB = 1, "R03"
_REMEDY = "save it as sRGB"


def embedded_profile(
    image: Image.Image, data: bytes, notice: Callable[[str], None]
) -> bytes | None:
    """Finds the ICC profile of an open image file, if any.

    Args:
        image: Image as opened.
        data: Content of the file.
        notice: Receives what is ignored.

    Raises:
        UnreadableImageError: If the file states colours other than sRGB by other means.
    """
    profile = image.info.get("icc_profile") or _bmp_profile(data)
    if profile:
        return bytes(profile)
    if "icc_profile" in image.info:
        notice("its ICC profile is damaged and is ignored")
        return None
    if image.format == "PNG":
        _check_png(image, data)
    if image.format in ("JPEG", "MPO"):
        _check_exif(image)
    if isinstance(image, TiffImageFile):
        primaries = image.tag_v2.get(_TIFF_PRIMARIES)
        if primaries and not _near(primaries, _SRGB_PRIMARIES):
            raise UnreadableImageError("states primary colours that are not sRGB's", _REMEDY)
    return None


def srgb_from_profile(
    image: Image.Image, profile: bytes, notice: Callable[[str], None]
) -> Image.Image:
    """Converts an image from the colour space of ``profile`` to sRGB.

    Args:
        image: Image of any mode without alpha.
        profile: ICC profile.
        notice: Receives what is ignored.

    Returns:
        The image as RGB; unchanged where the profile is sRGB or is ignored.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in _MODE_OF_SPACE:
            raise ValueError(f"it is for {space}")
        mode = _MODE_OF_SPACE[space]
        if (mode == "CMYK") != (image.mode == "CMYK"):
            raise ValueError(f"it is for {mode} and the image is {image.mode}")
        if mode == "L" and image.mode not in GREY_MODES:
            raise ValueError(f"it is for grey and the image is {image.mode}")
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if mode == "L":  # littleCMS's table for grey is off by 10 levels in the dark
            flags |= ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags,
        )
        if mode != "CMYK" and _keeps_colors(transform, mode):
            return image
        return _apply(transform, image.convert(mode))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        notice(f"its ICC profile cannot be used and is ignored ({error})")
        return image


def _keeps_colors(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colors = np.array(list(product(range(0, 256, 17), repeat=3)), np.uint8)
    lattice = grey if mode == "L" else np.concatenate([grey, colors])
    moved = np.asarray(_apply(transform, Image.fromarray(lattice[None]).convert(mode)))
    return bool(np.abs(moved.astype(int) - lattice).max() <= SAME_COLOR)


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # in place it would be
    return converted


def _bmp_profile(data: bytes) -> bytes | None:
    """ICC profile of a bitmap (BITMAPV5HEADER), which Pillow does not read."""
    if data[:2] != b"BM" or int.from_bytes(data[14:18], "little") != 124 or data[70:74] != b"DEBM":
        return None
    offset, size = (int.from_bytes(data[at : at + 4], "little") for at in (126, 130))
    return data[14 + offset : 14 + offset + size] or None


def _check_png(image: Image.Image, data: bytes) -> None:
    header = data[: data.find(b"IDAT")]
    at = header.find(b"cICP")
    if at > 0:
        if tuple(header[at + 4 : at + 8]) != _SRGB_CICP:
            raise UnreadableImageError("states colours (cICP) that are not sRGB", _REMEDY)
        return
    if "srgb" in image.info:
        return
    gamma = image.info.get("gamma")
    if gamma and not math.isclose(gamma, _SRGB_GAMMA, rel_tol=0.05):
        raise UnreadableImageError(f"states a gamma of {gamma:g}, not sRGB's", _REMEDY)
    primaries = image.info.get("chromaticity")
    if primaries and not _near(primaries, (*_SRGB_WHITE, *_SRGB_PRIMARIES)):
        raise UnreadableImageError("states primary colours that are not sRGB's", _REMEDY)


def _check_exif(image: Image.Image) -> None:
    try:
        index = image.getexif().get_ifd(ExifTags.IFD.Interop).get(_INTEROPERABILITY_INDEX)
    except Exception:  # damaged EXIF says nothing about the pixels
        return
    if index == _ADOBE_RGB:
        raise UnreadableImageError("states Adobe RGB in its EXIF and has no profile", _REMEDY)


def _near(values: Sequence[float], expected: Sequence[float]) -> bool:
    return len(values) == len(expected) and all(
        math.isclose(value, each, abs_tol=0.01)
        for value, each in zip(values, expected, strict=True)
    )
