"""Checks of the picture: focus, exposure, likeness to a stained cell.

Every check compares a few figures of a picture with those of the training cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from services.common.answers.outliers import at_most

_QUANTILES = (0.01, 0.5, 0.99)
#: How far beyond the first or last percentile a figure may lie, in its distances to the median.
_SLACK = 0.5
_LEAST_SPREAD = 1e-3
_SHRINKAGE = 0.1
_PICTURE_QUANTILE = 0.99
_NUM_PARTS = 10
#: Size to which pictures are thinned out for their look: it is colour and coarse detail.
_LOOK_SIZE = 64
#: Optical density of a pixel's value.
_DENSITIES = -np.log((np.arange(256, dtype=np.float32) + 8) / 263)
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
    edges = _laplacian(gray).reshape(len(gray), -1)
    spread = gray.reshape(len(gray), -1).var(axis=1) + 1e-5
    return np.log(edges.var(axis=1) / spread + 1e-4)


def exposure(images_BHWC: np.ndarray) -> np.ndarray:
    """Mean brightness and clipped share (B, 2), each 0 to 1."""
    pixels = _small(images_BHWC)
    darkest, brightest = pixels.min(axis=1), pixels.max(axis=1)
    clipped = ((darkest >= 254) | (brightest <= 1)).mean(axis=1)
    return np.stack([pixels.mean(axis=(1, 2)) / 255, clipped], axis=1)


def look(images_BHWC: np.ndarray) -> np.ndarray:
    """Figures (B, F) of colours, contrast and detail, centre and surround."""
    pixels = _small(images_BHWC)  # (B, 3, P)
    density = _DENSITIES[pixels]
    size = round(pixels.shape[2] ** 0.5)
    parts = []
    for region in _regions(size):
        inside = density[:, :, region]
        parts += [inside.mean(axis=2), inside.std(axis=2)]
        low, high = (int(share * (len(region) - 1)) for share in (0.1, 0.9))
        ordered = np.partition(inside[:, 0], (low, high), axis=1)
        parts.append(ordered[:, (low, high)])
        parts.append((inside[:, 0] - inside[:, 2]).std(axis=1)[:, None])
    gray = density.mean(axis=1).reshape(-1, size, size)
    for _ in range(3):
        edges = _laplacian(gray).reshape(len(gray), -1)
        parts.append(np.log(edges.std(axis=1) + 0.01)[:, None])
        even = gray[:, : gray.shape[1] // 2 * 2, : gray.shape[2] // 2 * 2]
        gray = (
            even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
        ) / 4
    return np.concatenate(parts, axis=1).astype(float)


def _small(images_BHWC: np.ndarray) -> np.ndarray:
    """Every n-th pixel by channel, uint8 (B, 3, P); P <= 127²."""
    step = max(1, min(images_BHWC.shape[1:3]) // _LOOK_SIZE)
    pixels = images_BHWC[:, ::step, ::step].transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels).reshape(len(pixels), 3, -1)


@cache
def _regions(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the pixels in the centre, and of those around."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    distance = np.hypot(y, x).ravel()
    return np.flatnonzero(distance < 0.3 * size), np.flatnonzero(distance > 0.42 * size)


def _gray(images_BHWC: np.ndarray) -> np.ndarray:
    red, green, blue = (images_BHWC[..., c].astype(np.float32) for c in range(3))
    return (red + green + blue) / (3 * 255)


def _laplacian(gray_BHW: np.ndarray) -> np.ndarray:
    """Laplacian of four neighbours, (B, H - 2, W - 2)."""
    inner = gray_BHW[:, 1:-1, 1:-1]
    beside = gray_BHW[:, 1:-1, :-2] + gray_BHW[:, 1:-1, 2:]
    return beside + gray_BHW[:, :-2, 1:-1] + gray_BHW[:, 2:, 1:-1] - 4 * inner


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
