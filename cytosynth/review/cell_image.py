"""Cells as every reviewer sees them: one size, one format, nothing else in the file."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cytosynth.client.errors import invalid_argument
from cytosynth.client.image_tree import ImageFile, read_image

SMALLEST_SIDE_PX = 16
LARGEST_SIDE_PX = 512
_MAX_PIXELS = 50_000_000
_READABLE = "replace or remove it: still PNG, JPEG, WebP, TIFF or BMP images are read"

RgbImage = NDArray[np.uint8]


def read_cell(file: ImageFile, crop: float) -> tuple[bytes, RgbImage]:
    """The file's bytes, and the centred square of ``crop`` times its shorter side.

    Args:
        file: One image of a tree.
        crop: Share of the shorter side to keep, above 0, at most 1.

    Returns:
        Bytes as on disk; uint8 (side, side, 3), upright, RGB.

    Raises:
        CytosynthError: The file cannot be read or is too small; names it.
    """
    data = read_image(file.path, file.file_name)
    image = _decode(data, file.file_name)
    height, width = image.shape[:2]
    side = round(min(height, width) * crop)
    if side < SMALLEST_SIDE_PX:
        raise invalid_argument(
            file.file_name,
            f"{width}x{height} pixels leave {side} after the crop",
            f"give cells of at least {SMALLEST_SIDE_PX} pixels a side, or a larger --center-crop",
        )
    top, left = (height - side) // 2, (width - side) // 2
    return data, image[top : top + side, left : left + side]


def encode_cell(square: RgbImage, size_px: int) -> bytes:
    """``square`` at ``size_px`` pixels a side, as PNG without metadata.

    The PNG is not compressed, so that all cells of one size have the same number of bytes: how
    well a picture compresses tells noise of a camera from a decoder's.
    """
    image = Image.fromarray(square)
    if image.width != size_px:
        image = image.resize((size_px, size_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def _decode(data: bytes, name: str) -> RgbImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                if opened.width * opened.height > _MAX_PIXELS:
                    raise ValueError("too many pixels")
                opened.load()
                image = ImageOps.exif_transpose(opened)
    except Exception:  # of many kinds, as Pillow's decoders go
        raise invalid_argument(name, "is not an image that can be read", _READABLE) from None
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return np.asarray(image.convert("RGB"))
