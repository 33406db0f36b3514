"""A saliency map over its image, as PNG."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.images.codec import encode_image

_LEAST_PX = 224
_OPACITY = 0.65
# From dark to light, so that the map reads without seeing colours: dark red, orange, pale yellow.
_COLORS = np.array([[90, 10, 40], [230, 90, 20], [255, 250, 180]], np.float32)


def overlay_png(image_HWC: NDArray[np.uint8], saliency_HW: NDArray[np.float32]) -> bytes:
    """PNG of the image, enlarged if small, under the map.

    Args:
        image_HWC: RGB image.
        saliency_HW: Map of the same size, from 0 to 1; where it is 0 the image stays as it is.
    """
    size = max(_LEAST_PX, image_HWC.shape[0])
    image = Image.fromarray(image_HWC).resize((size, size), Image.Resampling.BICUBIC)
    heat = Image.fromarray(saliency_HW.astype(np.float32)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    heat_HW1 = np.clip(np.asarray(heat), 0, 1)[..., None]
    stops = np.linspace(0, 1, len(_COLORS))
    color_HWC = np.stack(
        [np.interp(heat_HW1[..., 0], stops, _COLORS[:, band]) for band in range(3)], axis=-1
    )
    opacity_HW1 = _OPACITY * heat_HW1
    mixed = (1 - opacity_HW1) * np.asarray(image, np.float32) + opacity_HW1 * color_HWC
    return encode_image(np.rint(mixed).clip(0, 255).astype(np.uint8))
