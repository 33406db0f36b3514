"""Folds keep patients together and every class in every network."""

from __future__ import annotations

import numpy as np
import pytest

from services.common.errors import FailedPrecondition
from services.trainer.classifiers.folds import assign_folds, seen_by_base, training_groups

CLASSES = ("basophil", "lymphocyte", "monocyte")


def test_single_images_are_spread_evenly_over_the_folds() -> None:
    labels = np.repeat([0, 1, 2], [6, 40, 13])
    folds = assign_folds(labels, [f"image {n}" for n in range(59)], CLASSES, 3, 0)
    for label, count in enumerate((6, 40, 13)):
        held = np.bincount(folds[labels == label], minlength=3)
        assert held.sum() == count and held.max() - held.min() <= 1


def test_patients_with_several_classes_stay_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    patients = rng.integers(0, 20, 180)
    folds = assign_folds(labels, [f"patient {p}" for p in patients], CLASSES, 4, 1)
    for patient in range(20):
        assert len(set(folds[patients == patient])) == 1
    counts = np.array([np.bincount(folds[labels == c], minlength=4) for c in range(3)])
    assert counts.min() >= 5, f"no fold is without a class: {counts}"


def test_seed_decides_and_repeats() -> None:
    labels, groups = np.arange(60) % 3, [str(n) for n in range(60)]
    first = assign_folds(labels, groups, CLASSES, 3, 5)
    assert np.array_equal(first, assign_folds(labels, groups, CLASSES, 3, 5))
    assert not np.array_equal(first, assign_folds(labels, groups, CLASSES, 3, 6))


def test_rare_class_means_fewer_folds() -> None:
    labels = np.repeat([0, 1, 2], [2, 30, 30])
    folds = assign_folds(labels, [str(n) for n in range(62)], CLASSES, 3, 0)
    assert set(folds) == {0, 1} and set(folds[:2]) == {0, 1}


@pytest.mark.parametrize("names", [["one"] * 5, ["one"]])
def test_class_of_one_patient_is_named(names: list[str]) -> None:
    labels = np.repeat([0, 1, 2], [len(names), 30, 30])
    groups = [*names, *(str(n) for n in range(60))]
    with pytest.raises(FailedPrecondition, match="class basophil cannot be divided") as caught:
        assign_folds(labels, groups, CLASSES, 3, 0)
    assert caught.value.remedy


def dataset(*images: tuple[str, str, str]) -> dict[str, object]:
    """A manifest of images: digest, patient and perceptual hash."""
    described = {
        digest: {"class_id": "monocyte", "file_name": "", "patient_id": patient, "phash": phash}
        for digest, patient, phash in images
    }
    return {"body": {"images": described}}


def test_groups_are_patients_and_near_duplicates() -> None:
    manifest = dataset(
        ("a", "p", "0" * 16), ("b", "p", "f" * 16), ("c", "", "f" * 15 + "e"), ("d", "", "5" * 16)
    )  # fmt: skip
    a, b, c, d = training_groups(manifest, ["a", "b", "c", "d"])
    assert a == b == c != d


def test_images_and_near_duplicates_that_the_base_has_seen_are_found() -> None:
    manifest = dataset(("a", "", "0" * 16), ("b", "", "f" * 16), ("c", "", "5" * 16))
    base = {"digests": ["a"], "phashes": ["f" * 15 + "e"]}
    assert seen_by_base(manifest, ["a", "b", "c"], base).tolist() == [True, True, False]
    assert not seen_by_base(manifest, ["a", "b", "c"], {}).any()
