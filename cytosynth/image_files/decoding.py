"""Decodes untrusted image files by one rule for services and review.

What a file states about its samples is honoured or the file is refused:

- *Depth.* Samples of up to 8 bits are read as they are, 16-bit samples over 0 to 65535. Cameras of
  10 to 14 bits often leave their values at the low end of 16 bits. So a 16-bit image without a
  sample above 16383, a quarter of the range, is refused. A grey TIFF may state its scale: by a
  BitsPerSample of 12, or by a MaxSampleValue that is a power of two less one. PNG's sBIT states
  no scale, because the samples of a PNG fill their depth.
- *Meaning.* Grey, inverted grey, palette, RGB, YCbCr and CMYK become RGB. Signed samples,
  floating-point samples and CIELab are refused.
- *Colour.* An embedded ICC profile is converted to sRGB, see ``color_spaces``.
- *Transparency.* Pixels are composited over white. An alpha channel that hides the whole image is
  ignored with a notice, because some writers leave the channel at 0.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from cytosynth.image_files.color_spaces import GREY_MODES, embedded_profile, srgb_from_profile
from cytosynth.image_files.errors import UnreadableImageError
from cytosynth.image_files.tiff_samples import Samples, read_samples

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
SEND_A_STILL_IMAGE = "send a still PNG, JPEG, WebP, TIFF or BMP image"
SAVE_AS_8_BIT = "save it as 8-bit RGB"
UNSCALED_MAX = 16383
"""A 16-bit image whose largest sample is at most this states no scale: a quarter of the range."""

_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES_8_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_TIFF_PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HIDDEN = 1
"""Alpha values up to this hide a pixel: over white it differs from white by at most 1 of 255."""

_log = logging.getLogger(__name__)

RgbImage = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageLimits:
    """Limits for one image, by default those of the services' settings."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    min_size_px: int = 8


DEFAULT_LIMITS = ImageLimits()


def decode_rgb(
    data: bytes,
    name: str,
    limits: ImageLimits = DEFAULT_LIMITS,
    notices: list[str] | None = None,
) -> RgbImage:
    """Decodes one image file, upright (EXIF), as uint8 sRGB (H, W, 3).

    Args:
        data: Content of the file.
        name: What the log calls it, for example a request field or a file name.
        limits: Checked on the header, before any pixel is decoded.
        notices: Receives what is ignored, which the log is told in any case.

    Raises:
        UnreadableImageError: If it is not one whole, still image of a known format and sane size,
            or what it states about its samples cannot be honoured.
    """
    if not data:
        raise UnreadableImageError("is empty", SEND_A_STILL_IMAGE)
    if len(data) > limits.max_bytes:
        raise UnreadableImageError(
            f"has {len(data)} bytes, more than {limits.max_bytes}",
            "send a smaller or more strongly compressed image",
        )

    def notice(text: str) -> None:
        _log.warning("%s: %s", name, text)
        if notices is not None:
            notices.append(text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _open(data, limits) as image:
            _check_header(image, limits)
            try:
                samples = _samples(image, data)
                if image.format == "PNG":
                    _verify_checksums(data)
                profile = embedded_profile(image, data, notice)
                image.load()
                return _to_rgb(_upright(image), samples, profile, notice)
            except UnreadableImageError:
                raise
            except Exception:  # of many kinds, as Pillow's decoders go
                raise UnreadableImageError(
                    f"is a truncated or damaged {image.format} file", "send the file again, whole"
                ) from None


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except Exception:  # of many kinds, as Pillow's decoders go
        if data.startswith(_TIFF_PREFIXES):
            raise UnreadableImageError(
                "is a TIFF file that is damaged, or whose samples are of a kind that is not read",
                SAVE_AS_8_BIT,
            ) from None
        raise UnreadableImageError("is not an image that can be read", SEND_A_STILL_IMAGE) from None


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(limits)
    if min(width, height) < limits.min_size_px:
        raise UnreadableImageError(
            f"is {width}x{height} pixels",
            f"send an image of at least {limits.min_size_px}x{limits.min_size_px} pixels",
        )
    if _has_more_frames(image):
        raise UnreadableImageError("has more than one frame or page", SEND_A_STILL_IMAGE)
    if image.mode not in _MODES_8_BIT + _MODES_16_BIT:
        raise UnreadableImageError(
            f"has samples of a kind that is not read ({image.mode})", SAVE_AS_8_BIT
        )


def _has_more_frames(image: Image.Image) -> bool:
    if image.format == "TIFF":  # n_frames would walk a chain of any length
        try:
            image.seek(1)
        except EOFError:
            return False
        except Exception:  # a damaged second page is a second page
            return True
        return True
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _samples(image: Image.Image, data: bytes) -> Samples:
    if isinstance(image, TiffImageFile):
        return read_samples(image)
    if image.format == "PNG":
        return Samples(bits=data[24])  # IHDR's bit depth: Pillow's mode is RGB at 8 and at 16 bits
    return Samples(bits=8)


def _verify_checksums(data: bytes) -> None:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image


def _to_rgb(
    image: Image.Image, samples: Samples, profile: bytes | None, notice: Callable[[str], None]
) -> RgbImage:
    if image.mode in _MODES_16_BIT:
        image = _grey_of_16_bits(image, samples)
    elif samples.bits > 8:  # Pillow has kept the high byte of each sample
        _check_scale(max(_largest(band) for band in _color_bands(image)) * 257, samples)
    if image.mode == "La":  # Pillow does not convert it to RGBA
        image = image.convert("LA")
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if has_alpha:
        rgba = image.convert("RGBA")
        colors = rgba.getchannel("R") if image.mode in GREY_MODES else rgba.convert("RGB")
        alpha = rgba.getchannel("A")
        if profile:
            colors = srgb_from_profile(colors, profile, notice)
        image = _over_white(colors, alpha, notice)
    elif profile:
        image = srgb_from_profile(image, profile, notice)
    return np.asarray(image.convert("RGB")).copy()


def _grey_of_16_bits(image: Image.Image, samples: Samples) -> Image.Image:
    """Grey of 8 bits, with alpha where one value is transparent."""
    values = np.asarray(image).astype(np.uint32)
    largest = int(values.max())
    if samples.scale is None:
        _check_scale(largest, samples)
    elif largest > samples.scale:
        raise UnreadableImageError(
            f"states a largest sample of {samples.scale} but has one of {largest}", SAVE_AS_8_BIT
        )
    scale = samples.scale or 65535
    shown = scale - values if samples.is_inverted else values
    grey = Image.fromarray(((shown * 255 + scale // 2) // scale).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _check_scale(largest: int, samples: Samples) -> None:
    if samples.scale is not None:
        raise UnreadableImageError(
            f"has colour samples of 16 bits that reach {samples.scale} only", SAVE_AS_8_BIT
        )
    if largest <= UNSCALED_MAX:
        raise UnreadableImageError(
            f"has 16-bit samples, none above {UNSCALED_MAX}, and does not state their scale",
            "scale them to 0 to 65535, or save it as 8-bit RGB",
        )


def _color_bands(image: Image.Image) -> list[Image.Image]:
    return [band for name, band in zip(image.getbands(), image.split(), strict=True) if name != "A"]


def _largest(band: Image.Image) -> int:
    return int(np.asarray(band).max())


def _over_white(
    colors: Image.Image, alpha: Image.Image, notice: Callable[[str], None]
) -> Image.Image:
    if _largest(alpha) <= _HIDDEN:
        if all(low == high for low, high in (band.getextrema() for band in colors.split())):
            raise UnreadableImageError(
                "is transparent everywhere and has no picture beneath",
                "save it without an alpha channel",
            )
        notice("its alpha channel hides the whole image and is ignored")
        return colors
    over = colors.convert("RGBA")
    over.putalpha(alpha)
    white = Image.new("RGBA", over.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, over)


def _too_many_pixels(limits: ImageLimits) -> UnreadableImageError:
    return UnreadableImageError(
        f"has more than {limits.max_pixels} pixels", "send a smaller image, cropped to one cell"
    )
