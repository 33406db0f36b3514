"""Divides training images into folds that are held out in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.common.errors import FailedPrecondition
from services.trainer.datasets.leakage import are_near_duplicates
from services.trainer.datasets.splitting import ImageRecord, group_images

_SUBJECT = "settings.num_calibration_folds"


def training_groups(dataset: Mapping[str, Any], digests: Sequence[str]) -> list[str]:
    """Group of each image: those of one patient, and near-duplicates, stay together.

    Args:
        dataset: Manifest of the dataset.
        digests: SHA-256 (hex) of training images.
    """
    images = dataset["body"]["images"]
    records = [
        ImageRecord(
            sha256=digest,
            class_id=images[digest]["class_id"],
            file_name=images[digest]["file_name"],
            patient_id=images[digest]["patient_id"],
            phash=images[digest]["phash"],
        )
        for digest in digests
    ]
    group_of = group_images(records)
    return [group_of[digest] for digest in digests]


def seen_by_base(
    dataset: Mapping[str, Any], digests: Sequence[str], base_manifest: Mapping[str, Any]
) -> np.ndarray:
    """Whether a base has seen each image or a near-duplicate, bool (N,).

    Such an image cannot be held out.
    """
    known = set(base_manifest.get("digests", ()))
    images = dataset["body"]["images"]
    hashes = [images[digest]["phash"] for digest in digests]
    is_same = np.array([digest in known for digest in digests], bool)
    return is_same | are_near_duplicates(hashes, base_manifest.get("phashes", ()))


def assign_folds(
    labels_N: np.ndarray,
    groups: Sequence[str],
    class_ids: Sequence[str],
    num_folds: int,
    seed: int,
) -> np.ndarray:
    """Fold of each image (N,), from 0; groups whole, classes spread.

    There are fewer folds than asked for where a class has fewer groups, but at least two. Every
    class is in at least two folds, so that a network without one fold learns all classes.

    Args:
        labels_N: Class of each image, position in ``class_ids``; every class occurs.
        groups: Group of each image.
        class_ids: Classes.
        num_folds: Folds asked for, at least 2.
        seed: Decides among equals.

    Raises:
        FailedPrecondition: If a class cannot be spread over two folds.
    """
    names, group_N = np.unique(np.asarray(groups), return_inverse=True)
    counts_GC = np.zeros((len(names), len(class_ids)))
    np.add.at(counts_GC, (group_N, labels_N), 1)
    groups_per_class = (counts_GC > 0).sum(axis=0)
    num_folds = int(min(num_folds, groups_per_class.min()))
    if num_folds < 2:
        _refuse(class_ids[int(groups_per_class.argmin())])
    totals_C = counts_GC.sum(axis=0)
    order = np.random.default_rng([seed, num_folds]).permutation(len(names))
    # The largest groups choose first, while there is room to make up for them.
    order = order[np.argsort(-counts_GC[order].sum(axis=1), kind="stable")]
    held_KC = np.zeros((num_folds, len(class_ids)))
    fold_of_group = np.zeros(len(names), int)
    for group in order:
        shares = counts_GC[group] / totals_C
        # Squares of the shares would grow by this much: least where its classes are rarest.
        growth_K = ((2 * held_KC / totals_C + shares) * shares).sum(axis=1)
        fold = int(np.lexsort((held_KC.sum(axis=1), np.round(growth_K, 12)))[0])
        fold_of_group[group] = fold
        held_KC[fold] += counts_GC[group]
    for label in np.flatnonzero((held_KC > 0).sum(axis=0) < 2):
        _refuse(class_ids[int(label)])
    return fold_of_group[group_N]


def _refuse(class_id: str) -> None:
    raise FailedPrecondition(
        _SUBJECT,
        f"the training images of class {class_id} cannot be divided into two folds",
        "add images that are no near-duplicates, of other patients",
    )
