"""Memorization: how near synthetic and new real images come to training images.

Two distances to the nearest training image: in a feature space, and between perceptual hashes.
Held-out real images say what is normal. A synthetic image much nearer to a training image than any
held-out one is more likely a copy than a new cell: Meehan et al. 2020, "A Non-Parametric Test to
Detect Data-Copying in Generative Models"; Alaa et al. 2022, "How Faithful is your Synthetic Data?",
authenticity. Features come as plain arrays, from whatever space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from services.common.images.near_duplicates import NEAR_DUPLICATE_BITS
from services.trainer.evaluation.nearest import (
    ImageFeatures,
    Metric,
    Nearest,
    nearest_training,
    rounded,
)
from services.trainer.evaluation.triplets import NUM_SHOWN, Triplet, nearest_triplets

COPY_SHARE = 0.5
"""Share of the nearest real-to-real distance below which a copy is flagged."""
MIN_REFERENCE = 20
"""Held-out images that a class needs to be its own reference."""


class Quantiles(TypedDict):
    """Quantiles of a distance."""

    min: float
    p1: float
    p5: float
    p25: float
    median: float
    p75: float


class DistanceQuantiles(TypedDict):
    """Quantiles of both kinds of images, None where there are none."""

    synthetic: Quantiles | None
    held_out: Quantiles | None


class DistanceFigures(TypedDict):
    """How the distances of synthetic and of held-out images compare.

    ``closer_than_held_out`` is the chance that a synthetic image is nearer to training than a
    held-out one (an AUC): 0.5 where they are equally far. ``share_below_min`` would be
    ``expected_below_min`` and ``share_below_p1`` 0.01 if synthetic images were new real ones.
    The four are None where either kind has no image.
    """

    num_synthetic: int
    num_held_out: int
    num_flagged: int
    num_near_copies: int
    distance: DistanceQuantiles
    bits: DistanceQuantiles
    closer_than_held_out: float | None
    share_below_p1: float | None
    share_below_min: float | None
    expected_below_min: float | None


class NearestFigures(TypedDict):
    """Distances to training images, overall and by class id."""

    metric: Metric
    copy_bits: int
    copy_share: float
    overall: DistanceFigures
    classes: dict[str, DistanceFigures]


class ComparisonFigures(NearestFigures):
    """Distances to one set of training images."""

    num_training: int


class NearestOfOne(NamedTuple):
    """The training images nearest to one synthetic image.

    Attributes:
        by_features: Number of the one nearest by features.
        distance: Distance to that.
        by_hash: Number of the one nearest by hash.
        bits: Differing bits to that.
        flagged: Whether the synthetic image is probably a copy.
    """

    by_features: int
    distance: float
    by_hash: int
    bits: int
    flagged: bool


@dataclass(frozen=True)
class Comparison:
    """Synthetic and held-out images compared with training images.

    Attributes:
        figures: Figures for reports.
        triplets: The nearest synthetic images and random others, each beside real ones.
        each: The nearest training images of every synthetic image, in their order.
    """

    figures: ComparisonFigures
    triplets: list[Triplet]
    each: list[NearestOfOne]


def compare(
    synthetic: ImageFeatures,
    training: ImageFeatures,
    held_out: ImageFeatures,
    metric: Metric = "cosine",
    num_shown: int = NUM_SHOWN,
    seed: int = 0,
) -> Comparison:
    """Distances to the training images, of synthetic and of held-out real images.

    Args:
        synthetic: As the generator released them.
        training: Images that the adapter was fitted to.
        held_out: Real images of the locked test split.
        metric: Distance of the feature space.
        num_shown: Triplets of each kind.
        seed: Seed of the random triplets.

    Raises:
        ValueError: If there is no training image, or a feature is not finite.
    """
    ours = nearest_training(synthetic, training, metric)
    theirs = nearest_training(held_out, training, metric)
    flagged = flag_copies(ours, synthetic.class_ids, theirs, held_out.class_ids)
    our_classes, their_classes = np.array(synthetic.class_ids), np.array(held_out.class_ids)
    everyone = np.ones(len(our_classes), bool), np.ones(len(their_classes), bool)
    return Comparison(
        figures={
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
        },
        triplets=nearest_triplets(synthetic, held_out, ours, flagged, metric, num_shown, seed),
        each=[
            NearestOfOne(int(index), rounded(distance), int(by_hash), int(bits), bool(flag))
            for index, distance, by_hash, bits, flag in zip(
                ours.index, ours.distance, ours.bits_index, ours.bits, flagged, strict=True
            )
        ],
    )


def flag_copies(
    ours: Nearest, our_classes: Sequence[str], theirs: Nearest, their_classes: Sequence[str]
) -> NDArray[np.bool_]:
    """Flags of images that are probably copies, (N,).

    Flagged are images whose hash is within ``NEAR_DUPLICATE_BITS`` of a training image's. Flagged
    are also images less than ``COPY_SHARE`` times as far from one as the nearest held-out image is:
    of their class, if that has ``MIN_REFERENCE`` held-out images, else of all classes.

    Args:
        ours: The images in question.
        our_classes: Class ids of ``ours``.
        theirs: Held-out real images.
        their_classes: Class ids of ``theirs``.
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
) -> DistanceFigures:
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
            rounded(roc_auc_score(sides, -np.concatenate([mine, reference]))) if both else None
        ),
        "share_below_p1": (rounded(np.mean(mine < np.quantile(reference, 0.01))) if both else None),
        "share_below_min": rounded(np.mean(mine < reference.min())) if both else None,
        "expected_below_min": rounded(1 / (len(reference) + 1)) if both else None,
    }


def _quantiles(values: np.ndarray) -> Quantiles | None:
    if not len(values):
        return None
    return {
        "min": rounded(np.quantile(values, 0.0)),
        "p1": rounded(np.quantile(values, 0.01)),
        "p5": rounded(np.quantile(values, 0.05)),
        "p25": rounded(np.quantile(values, 0.25)),
        "median": rounded(np.quantile(values, 0.5)),
        "p75": rounded(np.quantile(values, 0.75)),
    }
