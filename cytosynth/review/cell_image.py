"""Cells as reviewers see them: one size, one format, no metadata."""

from __future__ import annotations

import io

from PIL import Image

from cytosynth.client.errors import invalid_argument
from cytosynth.client.image_tree import ImageFile, read_image
from cytosynth.image_files.decoding import RgbImage, decode_rgb
from cytosynth.image_files.errors import UnreadableImageError

SMALLEST_EDGE_PX = 16
LARGEST_EDGE_PX = 512


def read_cell(file: ImageFile, crop: float) -> tuple[bytes, RgbImage]:
    """The file's bytes, and a centred square of its pixels.

    Args:
        file: One image of a tree.
        crop: Edge of the square as a share of the shorter edge, above 0, at most 1.

    Returns:
        Bytes as on disk; uint8 (S, S, 3), upright, RGB.

    Raises:
        CytosynthError: The file cannot be read or is too small; names it.
    """
    data = read_image(file.path, file.file_name)
    try:
        image = decode_rgb(data, file.file_name)
    except UnreadableImageError as error:
        raise invalid_argument(file.file_name, error.problem, error.remedy) from None
    height, width = image.shape[:2]
    edge = round(min(height, width) * crop)
    if edge < SMALLEST_EDGE_PX:
        raise invalid_argument(
            file.file_name,
            f"{width}x{height} pixels leave {edge} after the crop",
            f"give cells of at least {SMALLEST_EDGE_PX} pixels an edge, or a larger --center-crop",
        )
    top, left = (height - edge) // 2, (width - edge) // 2
    return data, image[top : top + edge, left : left + edge]


def encode_cell(square: RgbImage, size_px: int) -> bytes:
    """``square`` at ``size_px`` pixels an edge, as PNG without metadata.

    The PNG is not compressed, so that all cells of one size have the same number of bytes: how
    well a picture compresses tells camera noise from a decoder's.
    """
    image = Image.fromarray(square)
    if image.width != size_px:
        image = image.resize((size_px, size_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()
