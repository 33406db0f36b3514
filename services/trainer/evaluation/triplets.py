"""Triplets of a synthetic, its nearest training and nearest held-out image."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from services.common.images.codec import center_square, encode_image
from services.common.images.near_duplicates import NEAR_DUPLICATE_BITS, orientations
from services.trainer.evaluation.nearest import ImageFeatures, Metric, Nearest, rounded

NUM_SHOWN = 6
"""Triplets to show, of the nearest and of random synthetic images."""
TILE_PX = 96

TripletKind = Literal["closest", "random"]


class Triplet(TypedDict):
    """A synthetic image, its nearest training image and its nearest held-out image.

    Attributes:
        kind: Why it is shown.
        class_id: Class of the synthetic image.
        synthetic, training, held_out: Numbers of the images in their sets; ``held_out`` is None
            where there is none.
        orientation: Orientation of the training image.
        distance: Distance to the training image nearest by features.
        bits: Differing bits to the training image nearest by hash.
        flagged: Whether the synthetic image is probably a copy.
    """

    kind: TripletKind
    class_id: str
    synthetic: int
    training: int
    orientation: int
    held_out: int | None
    distance: float
    bits: int
    flagged: bool


class Pictures(TypedDict):
    """PNG data URIs of a triplet.

    ``training`` is in the matching orientation; ``held_out`` may be empty.
    """

    synthetic: str
    training: str
    held_out: str


class ShownTriplet(Triplet):
    """A triplet with its pictures."""

    pictures: Pictures


def nearest_triplets(
    synthetic: ImageFeatures,
    held_out: ImageFeatures,
    ours: Nearest,
    flagged: NDArray[np.bool_],
    metric: Metric,
    num_shown: int,
    seed: int,
) -> list[Triplet]:
    """Triplets of the nearest synthetic images and of random others.

    Args:
        synthetic: As the generator released them.
        held_out: Real images of the locked test split.
        ours: The nearest training image of each synthetic image.
        flagged: Which synthetic images are probably copies, (N,).
        metric: Distance of the feature space.
        num_shown: Triplets of each kind.
        seed: Seed of the random triplets.
    """
    order = np.lexsort((ours.distance, ~flagged))  # flagged first, nearest first
    closest, rest = order[:num_shown], order[num_shown:]
    num_random = min(num_shown, len(rest))
    random = np.random.default_rng(seed).choice(rest, num_random, replace=False)
    rows = [*closest.tolist(), *sorted(random.tolist())]
    kinds: list[TripletKind] = ["closest"] * len(closest)
    kinds += ["random"] * len(random)
    beside = _nearest_index(synthetic.features[rows], held_out.features, metric)
    found: list[Triplet] = []
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
                "distance": rounded(ours.distance[row]),
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
    triplets: Sequence[Triplet],
    synthetic: np.ndarray,
    training: np.ndarray,
    held_out: np.ndarray,
) -> list[ShownTriplet]:
    """Triplets with pictures.

    Args:
        triplets: Triplets as ``compare`` gives them.
        synthetic, training, held_out: uint8 (N, S, S, 3), the same that were compared.
    """
    shown: list[ShownTriplet] = []
    for triplet in triplets:
        other = triplet["held_out"]
        turned = orientations(training[triplet["training"]])[triplet["orientation"]]
        pictures: Pictures = {
            "synthetic": _picture(synthetic[triplet["synthetic"]]),
            "training": _picture(turned),
            "held_out": "" if other is None else _picture(held_out[other]),
        }
        shown.append({**triplet, "pictures": pictures})
    return shown


def _picture(image: np.ndarray) -> str:
    data = encode_image(center_square(image, 1.0, TILE_PX))
    return "data:image/png;base64," + base64.b64encode(data).decode()
