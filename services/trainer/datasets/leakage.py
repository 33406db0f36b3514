"""Checks that a model was not trained on locked test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.common.errors import FailedPrecondition
from services.common.images.near_duplicates import NEAR_DUPLICATE_BITS
from services.trainer.datasets.reading import digests_of_split


def check_blind(
    subject: str, manifest: Mapping[str, Any], dataset: Mapping[str, Any], remedy: str
) -> None:
    """Checks that a model has not seen locked test images.

    Args:
        subject: Name of the model in the error.
        manifest: The model's manifest.
        dataset: The dataset's manifest.
        remedy: What to do instead.

    Raises:
        FailedPrecondition: If it has seen one of them, or a near-duplicate of one.
    """
    by_class = digests_of_split(dict(dataset), "test")
    locked = [digest for digests in by_class.values() for digest in digests]
    num_same = len(set(locked) & set(manifest.get("digests", ())))
    if num_same:
        problem = f"was trained on {num_same} of the {len(locked)} locked test images"
        raise FailedPrecondition(subject, problem, remedy)
    images = dataset["body"]["images"]
    num_near = num_near_duplicates(
        [images[digest]["phash"] for digest in locked], manifest.get("phashes", ())
    )
    if num_near:
        problem = (
            f"was trained on near-duplicates of {num_near} of the {len(locked)} locked test images"
        )
        raise FailedPrecondition(subject, problem, remedy)


def training_phashes(dataset: Mapping[str, Any]) -> list[str]:
    """Perceptual hashes of a dataset's training images, for manifests of trained models."""
    images = dataset["body"]["images"]
    by_class = digests_of_split(dict(dataset), "train").values()
    return sorted({images[digest]["phash"] for digests in by_class for digest in digests})


def num_near_duplicates(hashes: list[str], known: Sequence[str]) -> int:
    """Number of ``hashes`` (16 hex digits) within ``NEAR_DUPLICATE_BITS`` of one of ``known``."""
    return int(are_near_duplicates(hashes, known).sum())


def are_near_duplicates(hashes: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Whether each of ``hashes`` is within ``NEAR_DUPLICATE_BITS`` of one of ``known``, bool."""
    if not hashes or not known:
        return np.zeros(len(hashes), bool)
    ours, theirs = (
        np.array([int(each, 16) for each in group], np.uint64) for group in (hashes, known)
    )
    return np.array(
        [np.any(np.bitwise_count(theirs ^ each) <= NEAR_DUPLICATE_BITS) for each in ours]
    )
