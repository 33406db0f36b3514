"""Cells as every reviewer sees them: one size, one format, nothing else in the file."""

from __future__ import annotations

import io

from PIL import Image

from cytosynth.client.errors import invalid_argument
from cytosynth.client.image_tree import ImageFile, read_image
from cytosynth.image_files.decoding import RgbImage, decode_rgb
from cytosynth.image_files.errors import UnreadableImageError

SMALLEST_SIDE_PX = 16
LARGEST_SIDE_PX = 512


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
    try:
        image = decode_rgb(data, file.file_name)
    except UnreadableImageError as error:
        raise invalid_argument(file.file_name, error.problem, error.remedy) from None
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
