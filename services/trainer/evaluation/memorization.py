"""Memorization: how near synthetic and new real images come to training images.

Two distances to the nearest training image: in a feature space, and between perceptual hashes.
Held-out real images say what is normal: a synthetic image that is much nearer to a training image
than any real one that was not trained on is more likely a copy than a new cell (Meehan et al. 2020,
"A Non-Parametric Test to Detect Data-Copying in Generative Models"; Alaa et al. 2022, "How Faithful
is your Synthetic Data?", authenticity). Features come as plain arrays, from whatever space.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from services.common.images.codec import center_square, encode_image, perceptual_hash
from services.common.images.near_duplicates import (
    HASH_PX,
    NEAR_DUPLICATE_BITS,
    orientations,
    training_hashes,
)

Metric: TypeAlias = Literal["cosine", "euclidean"]
COPY_SHARE = 0.5
"""Share of the nearest real-to-real distance below which a copy is flagged."""
MIN_REFERENCE = 20
"""Held-out images that a class needs to be its own reference."""
NUM_SHOWN = 6
"""Triplets to show, of the nearest and of random synthetic images."""
TILE_PX = 96
_QUANTILES = {"min": 0.0, "p1": 0.01, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75}


@dataclass(frozen=True)
class ImageFeatures:
    """Images with their places in the feature space.

    Attributes:
        images: uint8 (N, S, S, 3), cropped as for training.
        features: float32 (N, D). Of training images also (N, V, D): of each image in V
            orientations, for a space that rotations and mirroring change; V = 8 as in
            ``orientations``.
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


def compare(
    synthetic: ImageFeatures,
    training: ImageFeatures,
    held_out: ImageFeatures,
    metric: Metric = "cosine",
    num_shown: int = NUM_SHOWN,
    seed: int = 0,
) -> dict[str, Any]:
    """Distances to the training images, of synthetic and of held-out real images.

    Args:
        synthetic: As the generator released them.
        training: Images that the adapter was fitted to.
        held_out: Real images of the locked test split.
        metric: Distance of the feature space.
        num_shown: Triplets of each kind.
        seed: Seed of the random triplets.

    Returns:
        JSON, None where there is nothing to say: ``metric``; ``overall`` and
        ``classes`` (by class id), as ``_figures`` gives them; ``triplets``: ``kind`` ("closest" or
        "random"), ``class_id``, the numbers ``synthetic``, ``training``, ``held_out`` of the images
        in their sets (``held_out`` None where there is none), ``orientation`` of the training
        image, ``distance``, ``bits``, ``flagged``; ``each``, of every synthetic image in their
        order: number of the training image that is nearest by features, that distance, number of
        the one that is nearest by hash, bits, whether flagged.

    Raises:
        ValueError: If there is no training image, or a feature is not finite.
    """
    ours = nearest_training(synthetic, training, metric)
    theirs = nearest_training(held_out, training, metric)
    flagged = flag_copies(ours, synthetic.class_ids, theirs, held_out.class_ids)
    our_classes, their_classes = np.array(synthetic.class_ids), np.array(held_out.class_ids)
    everyone = np.ones(len(our_classes), bool), np.ones(len(their_classes), bool)
    return {
        "metric": metric,
        "num_training": len(training.images),
        "copy_bits": NEAR_DUPLICATE_BITS,
        "copy_share": COPY_SHARE,
        "overall": _figures(ours, theirs, flagged, *everyone),
        "classes": {
            class_id: _figures(
                ours, theirs, flagged, our_classes == class_id, their_classes == class_id
            )
            for class_id in sorted(set(synthetic.class_ids))
        },
        "triplets": _triplets(synthetic, held_out, ours, flagged, metric, num_shown, seed),
        "each": [
            [int(index), _rounded(distance), int(by_bits), int(bits), bool(flag)]
            for index, distance, by_bits, bits, flag in zip(
                ours.index, ours.distance, ours.bits_index, ours.bits, flagged, strict=True
            )
        ],
    }


def flag_copies(
    ours: Nearest, our_classes: Sequence[str], theirs: Nearest, their_classes: Sequence[str]
) -> NDArray[np.bool_]:
    """Flags of images that are probably copies, (N,).

    Flagged are images whose hash is within ``NEAR_DUPLICATE_BITS`` of a training image's, and those
    less than ``COPY_SHARE`` times as far from one as the nearest held-out image is: of their class,
    if that has ``MIN_REFERENCE`` held-out images, else of all classes.

    Args:
        ours: The images in question.
        our_classes: Their class ids.
        theirs: Held-out real images.
        their_classes: Their class ids.
    """
    flagged: NDArray[np.bool_] = ours.bits <= NEAR_DUPLICATE_BITS
    if not len(theirs.distance):
        return flagged
    names, references = np.array(our_classes), np.array(their_classes)
    for class_id in set(our_classes):
        own = theirs.distance[references == class_id]
        reference = own if len(own) >= MIN_REFERENCE else theirs.distance
        near = ours.distance < COPY_SHARE * reference.min()
        flagged = flagged | (near & (names == class_id))
    return flagged


def _figures(
    ours: Nearest,
    theirs: Nearest,
    flagged: NDArray[np.bool_],
    of_ours: NDArray[np.bool_],
    of_theirs: NDArray[np.bool_],
) -> dict[str, Any]:
    """Quantiles of both distances, and how the two sides compare.

    ``closer_than_held_out`` is the chance that a synthetic image is nearer to training than a
    held-out one (an AUC): 0.5 where they are equally far. ``share_below_min`` would be
    ``expected_below_min`` and ``share_below_p1`` 0.01 if synthetic images were new real ones.
    """
    mine, reference = ours.distance[of_ours], theirs.distance[of_theirs]
    both = bool(len(mine) and len(reference))
    sides = np.repeat([1, 0], [len(mine), len(reference)])
    return {
        "num_synthetic": len(mine),
        "num_held_out": len(reference),
        "num_flagged": int(flagged[of_ours].sum()),
        "num_near_copies": int((ours.bits[of_ours] <= NEAR_DUPLICATE_BITS).sum()),
        "distance": {"synthetic": _quantiles(mine), "held_out": _quantiles(reference)},
        "bits": {
            "synthetic": _quantiles(ours.bits[of_ours]),
            "held_out": _quantiles(theirs.bits[of_theirs]),
        },
        "closer_than_held_out": (
            _rounded(roc_auc_score(sides, -np.concatenate([mine, reference]))) if both else None
        ),
        "share_below_p1": (
            _rounded(np.mean(mine < np.quantile(reference, 0.01))) if both else None
        ),
        "share_below_min": _rounded(np.mean(mine < reference.min())) if both else None,
        "expected_below_min": _rounded(1 / (len(reference) + 1)) if both else None,
    }


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {name: _rounded(np.quantile(values, at)) for name, at in _QUANTILES.items()}


def _rounded(value: Any) -> float:
    return round(float(value), 5)


def _triplets(
    synthetic: ImageFeatures,
    held_out: ImageFeatures,
    ours: Nearest,
    flagged: NDArray[np.bool_],
    metric: Metric,
    num_shown: int,
    seed: int,
) -> list[dict[str, Any]]:
    order = np.lexsort((ours.distance, ~flagged))  # flagged first, nearest first
    closest, rest = order[:num_shown], order[num_shown:]
    num_random = min(num_shown, len(rest))
    random = np.random.default_rng(seed).choice(rest, num_random, replace=False)
    rows = [*closest.tolist(), *sorted(random.tolist())]
    kinds = ["closest"] * len(closest) + ["random"] * len(random)
    beside = _nearest_index(synthetic.features[rows], held_out.features, metric)
    found = []
    for row, kind, other in zip(rows, kinds, beside, strict=True):
        by_hash = ours.bits[row] <= NEAR_DUPLICATE_BITS
        index, orientation = (
            (ours.bits_index, ours.bits_orientation) if by_hash else (ours.index, ours.orientation)
        )
        found.append(
            {
                "kind": kind,
                "class_id": synthetic.class_ids[row],
                "synthetic": row,
                "training": int(index[row]),
                "orientation": int(orientation[row]),
                "held_out": other,
                "distance": _rounded(ours.distance[row]),
                "bits": int(ours.bits[row]),
                "flagged": bool(flagged[row]),
            }
        )
    return found


def _nearest_index(features: np.ndarray, known: np.ndarray, metric: Metric) -> list[int | None]:
    if not len(features) or not len(known):
        return [None] * len(features)
    search = NearestNeighbors(n_neighbors=1, metric=metric, algorithm="brute").fit(known)
    places: list[int | None] = search.kneighbors(features, return_distance=False)[:, 0].tolist()
    return places


def triplet_pictures(
    triplets: Sequence[dict[str, Any]],
    synthetic: np.ndarray,
    training: np.ndarray,
    held_out: np.ndarray,
) -> list[dict[str, Any]]:
    """Triplets with pictures.

    ``pictures`` are PNG data URIs by "synthetic", "training" (in the matching orientation) and
    "held_out" (empty where there is none).

    Args:
        triplets: Triplets as ``compare`` gives them.
        synthetic, training, held_out: uint8 (N, S, S, 3), the same that were compared.
    """
    shown = []
    for triplet in triplets:
        other = triplet["held_out"]
        turned = orientations(training[triplet["training"]])[triplet["orientation"]]
        pictures = {
            "synthetic": _picture(synthetic[triplet["synthetic"]]),
            "training": _picture(turned),
            "held_out": "" if other is None else _picture(held_out[other]),
        }
        shown.append({**triplet, "pictures": pictures})
    return shown


def _picture(image: np.ndarray) -> str:
    data = encode_image(center_square(image, 1.0, TILE_PX))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _squares(images: np.ndarray) -> list[np.ndarray]:
    return [center_square(image, 1.0, HASH_PX) for image in images]
