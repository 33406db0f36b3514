"""Reads strangers' image files strictly, and the few image operations that services share.

Arrays are ``uint8`` of shape (H, W, 3), RGB, unless said otherwise.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from services.common.errors import InvalidArgument

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_TAKEN = "send a still PNG, JPEG, WebP, TIFF or BMP image"
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES_8_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")

_TRAINED_MEDIA = b"trainedAlgorithmicMedia"
_SYNTHETIC_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
    f'{_TRAINED_MEDIA.decode()}"/></rdf:RDF></x:xmpmeta>'
)

RgbImage = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost; the defaults are those of ``CommonSettings``."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    min_side_px: int = 8


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, field: str, limits: ImageLimits = DEFAULT_LIMITS) -> RgbImage:
    """Decodes one image file, upright (EXIF), as RGB.

    16-bit samples are scaled to 8 bits over their full range; grey, CMYK and palette
    images become RGB; transparency is laid over white.

    Args:
        data: The encoded file.
        field: What to call it in an error, for example ``images[3]`` or a file name.
        limits: Checked on the header, before any pixel is decoded.

    Raises:
        InvalidArgument: If it is not one whole, still image of a known format and sane size.
    """
    if not data:
        raise InvalidArgument(field, "is empty", _TAKEN)
    if len(data) > limits.max_bytes:
        raise InvalidArgument(
            field,
            f"has {len(data)} bytes, more than {limits.max_bytes}",
            "send a smaller or more strongly compressed image",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_many_pixels(field, limits) from None
    except Exception:
        raise InvalidArgument(field, "is not an image that can be read", _TAKEN) from None
    with image:
        _check_header(image, field, limits)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if image.format == "PNG":
                    _verify_checksums(data)
                image.load()
                return _to_rgb(_upright(image), field)
        except InvalidArgument:
            raise
        except Exception:  # of many kinds, as Pillow's decoders go
            raise InvalidArgument(
                field,
                f"is a truncated or damaged {image.format} file",
                "send the file again, whole",
            ) from None


def encode_image(array: RgbImage, format: str = "PNG", synthetic: bool = False) -> bytes:
    """Encodes an RGB image as "PNG", "JPEG" (quality 95, full chroma) or "WEBP" (lossless).

    Args:
        array: Image, (H, W, 3).
        format: One of the three.
        synthetic: Whether the file says, in its XMP, that a trained model drew it (IPTC Digital
            Source Type, https://cv.iptc.org/newscodes/digitalsourcetype/).
    """
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 4},
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "quality": 50, "method": 2},
    }
    if synthetic and format == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", _SYNTHETIC_XMP)
        options[format]["pnginfo"] = text
    elif synthetic:
        options[format]["xmp"] = _SYNTHETIC_XMP.encode()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=format, **options[format])
    return buffer.getvalue()


def is_marked_synthetic(data: bytes) -> bool:
    """Whether an image file that ``decode_image`` takes says that a trained model drew it."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        packet = image.info.get("xmp", b"")
    packet = packet.encode() if isinstance(packet, str) else packet
    return _TRAINED_MEDIA.lower() in packet.lower()


def center_square(array: RgbImage, crop: float, size: int) -> RgbImage:
    """The centred square of ``crop`` times the shorter side, resized to ``size`` pixels.

    Args:
        array: Image, (H, W, 3).
        crop: Share of the shorter side to keep, above 0, at most 1.
        size: Side of the result, pixels.
    """
    height, width = array.shape[:2]
    side = max(1, round(min(height, width) * crop))
    top, left = (height - side) // 2, (width - side) // 2
    square = array[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def sha256_hex(data: bytes) -> str:
    """SHA-256 of encoded bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def perceptual_hash(array: RgbImage) -> str:
    """64-bit DCT hash (pHash), 16 hex digits; near-duplicates differ in few bits."""
    return str(imagehash.phash(Image.fromarray(array)))


def hamming(left: str, right: str) -> int:
    """Number of bits in which two perceptual hashes differ, 0 to 64."""
    return (int(left, 16) ^ int(right, 16)).bit_count()


def _check_header(image: Image.Image, field: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(field, limits)
    if min(width, height) < limits.min_side_px:
        raise InvalidArgument(
            field,
            f"is {width}x{height} pixels",
            f"send an image of at least {limits.min_side_px} pixels a side",
        )
    if _has_more_frames(image):
        raise InvalidArgument(field, "has more than one frame or page", _TAKEN)
    if image.mode not in _MODES_8_BIT + _MODES_16_BIT:
        raise InvalidArgument(
            field,
            f"has samples of a kind that is not taken ({image.mode})",
            "save it as 8-bit RGB",
        )


def _has_more_frames(image: Image.Image) -> bool:
    if image.format == "TIFF":  # n_frames would walk a chain of any length
        try:
            image.seek(1)
        except EOFError:
            return False
        except Exception:
            return True
        return True
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _verify_checksums(data: bytes) -> None:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image


def _to_rgb(image: Image.Image, field: str) -> RgbImage:
    if image.mode in _MODES_16_BIT:
        samples = np.asarray(image).astype(np.uint32)
        grey = ((samples * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, over)
    return np.asarray(image.convert("RGB")).copy()


def _too_many_pixels(field: str, limits: ImageLimits) -> InvalidArgument:
    return InvalidArgument(
        field,
        f"has more than {limits.max_pixels} pixels",
        "send a smaller image, cropped to one cell",
    )
