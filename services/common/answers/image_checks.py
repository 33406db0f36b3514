"""Checks of the picture: focus, exposure, likeness to a stained cell.

Every check compares a few figures of a picture with those of the training cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from services.common.answers.outliers import at_most

_QUANTILES = (0.01, 0.5, 0.99)
#: How far beyond the first or last percentile a figure may lie, in its distances to the median.
_SLACK = 0.5
_LEAST_SPREAD = 1e-3
_SHRINKAGE = 0.1
_PICTURE_QUANTILE = 0.99
_NUM_PARTS = 10
#: Pictures of a training set below which their typical look is not known.
MIN_IMAGES = 20


@dataclass(frozen=True)
class ImageChecks:
    """Figures of the training cells.

    Attributes:
        sharpness_low: Least sharpness (log of the Laplacian's variance over that of the picture).
        exposure_low, exposure_high: Bounds of brightness and clipped share, each (2,).
        look_mean: Mean of the figures that describe how a picture looks (F,).
        look_whitening: Turns differences to the mean into independent ones (F, F).
        look_bank: Such figures of the training cells (N, F).
        look_scale: 99th percentile of the distances of cells left out.
    """

    sharpness_low: float
    exposure_low: np.ndarray
    exposure_high: np.ndarray
    look_mean: np.ndarray
    look_whitening: np.ndarray
    look_bank: np.ndarray
    look_scale: float

    def blurred(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Whether each picture is less sharp than the training cells, bool (B,)."""
        return sharpness(images_BHWC) < self.sharpness_low

    def badly_exposed(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Whether each picture is over- or underexposed, bool (B,)."""
        figures = exposure(images_BHWC)
        outside = (figures < self.exposure_low) | (figures > self.exposure_high)
        return np.asarray(outside.any(axis=1))

    def strangeness(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Distance (B,) to the nearest training cell; 1: 99th percentile of cells."""
        found = (look(images_BHWC) - self.look_mean) @ self.look_whitening
        return _nearest(found, self.look_bank) / self.look_scale


def fit_image_checks(images_NHWC: np.ndarray) -> ImageChecks:
    """Bounds from ``MIN_IMAGES`` or more training cells, uint8 (N, S, S, 3)."""
    images_NHWC = at_most(images_NHWC)
    sharp = sharpness(images_NHWC)
    low, middle, _ = np.quantile(sharp, _QUANTILES)
    figures = exposure(images_NHWC)
    low_E, middle_E, high_E = np.quantile(figures, _QUANTILES, axis=0)
    found = look(images_NHWC)
    mean, whitening = _gaussian(found)
    bank = (found - mean) @ whitening
    distances = []
    for part in np.array_split(np.random.default_rng(0).permutation(len(bank)), _NUM_PARTS):
        distances.append(_nearest(bank[part], np.delete(bank, part, axis=0)))
    return ImageChecks(
        sharpness_low=float(low - _SLACK * max(middle - low, _LEAST_SPREAD)),
        exposure_low=low_E - _SLACK * np.maximum(middle_E - low_E, _LEAST_SPREAD),
        exposure_high=high_E + _SLACK * np.maximum(high_E - middle_E, _LEAST_SPREAD),
        look_mean=mean,
        look_whitening=whitening,
        look_bank=bank,
        look_scale=float(np.quantile(np.concatenate(distances), _PICTURE_QUANTILE)),
    )


def sharpness(images_BHWC: np.ndarray) -> np.ndarray:
    """Log of the Laplacian's variance over the picture's own (B,)."""
    gray = _gray(images_BHWC)
    edges = ndimage.laplace(gray, output=np.float32, axes=(1, 2))
    spread = gray.var(axis=(1, 2)) + 1e-5
    return np.log(edges.var(axis=(1, 2)) / spread + 1e-4)


def exposure(images_BHWC: np.ndarray) -> np.ndarray:
    """Mean brightness and clipped share (B, 2), each 0 to 1."""
    gray = _gray(images_BHWC)
    clipped = ((images_BHWC >= 254) | (images_BHWC <= 1)).all(axis=3)
    return np.stack([gray.mean((1, 2)), clipped.mean((1, 2))], axis=1)


def look(images_BHWC: np.ndarray) -> np.ndarray:
    """Figures (B, F) of colours, contrast and detail, centre and surround."""
    density = -np.log((images_BHWC.astype(np.float32) + 8) / 263)
    size = images_BHWC.shape[1]
    y, x = np.mgrid[:size, : images_BHWC.shape[2]] + 0.5 - size / 2
    inside = np.hypot(y, x) < 0.3 * size
    outside = np.hypot(y, x) > 0.42 * size
    parts = []
    for region in (inside, outside):
        pixels = density[:, region]
        parts += [pixels.mean(axis=1), pixels.std(axis=1)]
        parts.append(np.quantile(pixels[..., 0], (0.1, 0.9), axis=1).T)
        parts.append((pixels[..., 0] - pixels[..., 2]).std(axis=1)[:, None])
    gray = density.mean(axis=3)
    for _ in range(3):
        edges = ndimage.laplace(gray, output=np.float32, axes=(1, 2))
        parts.append(np.log(edges.std(axis=(1, 2)) + 0.01)[:, None])
        gray = ndimage.uniform_filter(gray, 2, axes=(1, 2))[:, ::2, ::2]
    return np.concatenate(parts, axis=1).astype(float)


def _gray(images_BHWC: np.ndarray) -> np.ndarray:
    return images_BHWC.astype(np.float32).mean(axis=3) / 255


def _nearest(found_BF: np.ndarray, bank_NF: np.ndarray) -> np.ndarray:
    """Root mean square difference (B,) to the nearest row of ``bank_NF``."""
    squares = (found_BF**2).sum(axis=1)[:, None] + (bank_NF**2).sum(axis=1)
    nearest = (squares - 2 * found_BF @ bank_NF.T).min(axis=1)
    return np.sqrt(np.maximum(nearest, 0) / bank_NF.shape[1])


def _gaussian(found_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the inverse square root of the shrunk covariance."""
    covariance = np.cov(found_NF, rowvar=False)
    diagonal = np.diag(np.diag(covariance) + 1e-4)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * diagonal
    values, vectors = np.linalg.eigh(shrunk)
    return found_NF.mean(axis=0), vectors / np.sqrt(np.maximum(values, 1e-8))
