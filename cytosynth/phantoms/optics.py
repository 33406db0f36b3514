"""From stain concentrations to a photograph: absorption, illumination, blur, camera."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from cytosynth.phantoms.fields import frame_axes, smooth_noise
from cytosynth.phantoms.laboratory import Laboratory


def illuminate(
    absorbance: np.ndarray, laboratory: Laboratory, rng: np.random.Generator
) -> np.ndarray:
    """Light through ``absorbance`` (S, S, 3): float32 0..255 of the same shape."""
    grid_size = absorbance.shape[0]
    x, y = frame_axes(grid_size)
    ramp = np.cos(laboratory.gradient_angle) * x + np.sin(laboratory.gradient_angle) * y
    light = 1.0 + laboratory.gradient * ramp - laboratory.vignetting * 2.0 * (x * x + y * y)
    light = light + laboratory.background_mottle * smooth_noise(rng, grid_size, 7)
    field = np.asarray(laboratory.background_rgb, dtype=np.float32)
    return np.exp(-absorbance) * light[..., None].astype(np.float32) * field


def area_downsample(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over square blocks of (H, W, C) or (H, W).

    ``factor`` is the width and height of a block in pixels.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image.reshape(height, factor, width, factor, *image.shape[2:])
    return blocks.mean(axis=(1, 3))


def photograph(
    light: np.ndarray, laboratory: Laboratory, factor: int, rng: np.random.Generator
) -> np.ndarray:
    """Blur and digitise ``light`` (S, S, 3).

    The result is uint8, ``1 / factor`` the size of ``light``.
    """
    grid_size = light.shape[0]
    sigma = laboratory.blur_sigma * grid_size
    image = area_downsample(gaussian_filter(light, (sigma, sigma, 0), truncate=3.0), factor)
    size = image.shape[0]
    if laboratory.sharpening > 0:
        wide = gaussian_filter(image, (0.02 * size, 0.02 * size, 0), truncate=2.5)
        image = image + laboratory.sharpening * (image - wide)
    if laboratory.chroma_softness > 0:
        luminance = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
        chroma = image - luminance[..., None]
        width = laboratory.chroma_softness * size
        image = luminance[..., None] + gaussian_filter(chroma, (width, width, 0), truncate=2.5)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise = 0.5 * noise + 0.87 * noise.mean(axis=2, keepdims=True) * 1.5
    image = image + laboratory.sensor_noise * noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
