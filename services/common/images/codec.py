"""Decoding and encoding of image files, and shared image operations.

Arrays are ``uint8`` of shape (H, W, 3), sRGB, unless said otherwise.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cytosynth.image_files.decoding import (
    DEFAULT_LIMITS,
    FORMATS,
    ImageLimits,
    RgbImage,
    decode_rgb,
)
from cytosynth.image_files.errors import UnreadableImageError
from services.common.errors import InvalidArgument

_TRAINED_MEDIA = b"trainedAlgorithmicMedia"
_SYNTHETIC_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
    f'{_TRAINED_MEDIA.decode()}"/></rdf:RDF></x:xmpmeta>'
)


def decode_image(
    data: bytes,
    field: str,
    limits: ImageLimits = DEFAULT_LIMITS,
    notices: list[str] | None = None,
) -> RgbImage:
    """Decodes one image file by the rule of ``cytosynth.image_files.decoding``.

    Args:
        data: Content of the file.
        field: Name of the image in an error, for example ``images[3]`` or a file name.
        limits: Checked on the header, before any pixel is decoded.
        notices: Receives what is ignored, for example a damaged ICC profile.

    Raises:
        InvalidArgument: If it is not one whole, still image of a known format and sane size, or
            what it states about its samples cannot be honoured.
    """
    try:
        return decode_rgb(data, field, limits, notices)
    except UnreadableImageError as error:
        raise InvalidArgument(field, error.problem, error.remedy) from None


def encode_image(array: RgbImage, format: str = "PNG", synthetic: bool = False) -> bytes:
    """Encodes an RGB image as PNG, JPEG or WebP.

    Args:
        array: Image, (H, W, 3).
        format: "PNG", "JPEG" (quality 95, full chroma) or "WEBP" (lossless).
        synthetic: Whether the file's XMP states that a trained model generated it (IPTC Digital
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
    """Whether an image file's XMP states that a trained model generated it."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        packet = image.info.get("xmp", b"")
    packet = packet.encode() if isinstance(packet, str) else packet
    return _TRAINED_MEDIA.lower() in packet.lower()


def center_square(array: RgbImage, crop: float, size: int) -> RgbImage:
    """Crops the centred square and resizes it to ``size`` pixels.

    Args:
        array: Image, (H, W, 3).
        crop: Share of the smaller of height and width to keep, above 0, at most 1.
        size: Size of the result, pixels.
    """
    height, width = array.shape[:2]
    kept = max(1, round(min(height, width) * crop))
    top, left = (height - kept) // 2, (width - kept) // 2
    square = array[top : top + kept, left : left + kept]
    if kept == size:
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
