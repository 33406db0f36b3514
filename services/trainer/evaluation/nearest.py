"""Nearest training images, by features and by perceptual hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from services.common.images.codec import center_square, perceptual_hash
from services.common.images.near_duplicates import HASH_PX, training_hashes

Metric: TypeAlias = Literal["cosine", "euclidean"]
"""Distance of a feature space."""


@dataclass(frozen=True)
class ImageFeatures:
    """Images with their places in the feature space.

    Attributes:
        images: uint8 (N, S, S, 3), cropped as for training.
        features: float32 (N, D). Training images may have (N, V, D): each image in V orientations,
            for a space that rotations and mirroring change; V = 8 as in ``orientations``.
        class_ids: N class ids.
    """

    images: np.ndarray
    features: np.ndarray
    class_ids: Sequence[str]


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of N others.

    Attributes:
        index: By features, (N,).
        orientation: In which of its V orientations, (N,).
        distance: In the feature space, (N,).
        bits: Differing bits of the perceptual hash to the nearest training image by hash, in any
            of its 8 orientations, 0 to 64, (N,).
        bits_index, bits_orientation: Which image and orientation that is, (N,).
    """

    index: NDArray[np.int64]
    orientation: NDArray[np.int64]
    distance: NDArray[np.float64]
    bits: NDArray[np.int64]
    bits_index: NDArray[np.int64]
    bits_orientation: NDArray[np.int64]


def nearest_training(
    images: ImageFeatures, training: ImageFeatures, metric: Metric = "cosine"
) -> Nearest:
    """The nearest training image of each image, by features and hash.

    Raises:
        ValueError: If there is no training image, or a feature is not finite.
    """
    num_training, *ways = training.features.shape[:-1]
    known = training.features.reshape(-1, training.features.shape[-1])
    search = NearestNeighbors(n_neighbors=1, metric=metric, algorithm="brute").fit(known)
    num_orientations = ways[0] if ways else 1
    if not len(images.images):
        none = np.zeros(0, np.int64)
        return Nearest(none, none, np.zeros(0), none, none, none)
    distance, places = search.kneighbors(images.features)
    index, orientation = np.divmod(places[:, 0].astype(np.int64), num_orientations)
    assert num_training == len(training.images)
    hashes = training_hashes(np.array(_squares(training.images)))
    bits, bits_places = np.zeros(len(index), np.int64), np.zeros(len(index), np.int64)
    for row, image in enumerate(_squares(images.images)):
        between = np.bitwise_count(hashes ^ np.uint64(int(perceptual_hash(image), 16)))
        bits_places[row] = between.argmin()
        bits[row] = between[bits_places[row]]
    bits_index, bits_orientation = np.divmod(bits_places, 8)
    return Nearest(
        index, orientation, distance[:, 0].astype(float), bits, bits_index, bits_orientation
    )


def _squares(images: np.ndarray) -> list[np.ndarray]:
    return [center_square(image, 1.0, HASH_PX) for image in images]


def rounded(value: SupportsFloat) -> float:
    """A distance or share to five decimals, as reports give it."""
    return round(float(value), 5)
