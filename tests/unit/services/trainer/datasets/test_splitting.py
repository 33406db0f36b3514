"""The split: repeatable from images and seed, disjoint, with shots as asked."""

from __future__ import annotations

import hashlib
import random

import pytest

from services.common.errors import InvalidArgument
from services.common.images.near_duplicates import NEAR_DUPLICATE_BITS
from services.trainer.datasets.splitting import (
    ImageRecord,
    Split,
    SplitSettings,
    group_images,
    near_duplicates,
    split_images,
)


def record(name: str, class_id: str, patient_id: str = "", phash: str = "") -> ImageRecord:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ImageRecord(digest, class_id, f"{name}.png", patient_id, phash or digest[:16])


def some(class_id: str, count: int, **fields: str) -> list[ImageRecord]:
    return [record(f"{class_id}-{i}", class_id, **fields) for i in range(count)]


def by_class(split: Split) -> dict[str, tuple[int, int]]:
    return {each.class_id: (len(each.train), len(each.test)) for each in split.classes}


def test_shots_train_and_the_rest_tests() -> None:
    images = some("basophil", 20) + some("monocyte", 50)
    split = split_images(images, SplitSettings(shots=16), "split")
    assert by_class(split) == {"basophil": (16, 4), "monocyte": (16, 34)}
    assert split.notices == ()


def test_class_shots_and_test_limit() -> None:
    images = some("basophil", 20) + some("monocyte", 50)
    settings = SplitSettings(shots=8, class_shots={"basophil": 4}, max_test_per_class=10)
    assert by_class(split_images(images, settings, "split")) == {
        "basophil": (4, 10),
        "monocyte": (8, 10),
    }


def test_no_shots_means_all_but_the_test_share() -> None:
    split = split_images(some("basophil", 50) + some("monocyte", 3), SplitSettings(), "split")
    assert by_class(split) == {"basophil": (40, 10), "monocyte": (2, 1)}


def test_the_digest_of_a_split_is_for_good() -> None:
    images = some("basophil", 9) + some("monocyte", 4, patient_id="p1") + some("myeloblast", 1)
    split = split_images(images, SplitSettings(shots=3, seed=2), "split")
    assert "monocyte is left out: its 4 images are of one patient" in split.notices[0]
    assert split.digest == "d9d6b3494ff6b69a3ee1fc1400c7e736b090b02b7a10cd5e136d14ee0cbc7e17"


def test_one_image_always_stays_for_the_test() -> None:
    split = split_images(some("basophil", 5), SplitSettings(shots=16), "split")
    assert by_class(split) == {"basophil": (4, 1)}
    assert "4 training images instead of 16" in split.notices[0]


def test_same_seed_same_split_in_any_order() -> None:
    images = some("basophil", 30) + some("monocyte", 30)
    shuffled = random.Random(1).sample(images, len(images))
    settings = SplitSettings(shots=8, seed=3)
    first, again = (split_images(each, settings, "split") for each in (images, shuffled))
    assert first == again
    assert len(first.digest) == 64
    other = split_images(images, SplitSettings(shots=8, seed=4), "split")
    assert other.classes != first.classes and other.digest != first.digest


def test_a_class_with_one_image_is_left_out_with_the_reason() -> None:
    split = split_images(some("basophil", 1) + some("monocyte", 9), SplitSettings(shots=4), "split")
    left_out = split.classes[0]
    assert (left_out.train, left_out.test) == ((), ())
    assert "one image" in left_out.left_out_reason
    assert any("basophil" in notice for notice in split.notices)


def test_a_class_of_one_patient_is_left_out() -> None:
    images = some("basophil", 9, patient_id="p1") + some("monocyte", 9)
    split = split_images(images, SplitSettings(shots=4), "split")
    assert "one patient" in split.classes[0].left_out_reason


def test_no_class_that_can_be_split_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="no class can be split"):
        split_images(some("basophil", 1), SplitSettings(shots=4), "header.split")


@pytest.mark.parametrize("seed", range(8))
def test_patients_stay_on_one_side_across_classes(seed: int) -> None:
    rng = random.Random(seed)
    images = [
        record(f"{class_id}-{i}", class_id, patient_id=f"p{rng.randrange(12)}")
        for class_id, count in (("basophil", 14), ("monocyte", 60), ("lymphocyte", 90))
        for i in range(count)
    ]
    split = split_images(images, SplitSettings(shots=8, seed=seed), "split")
    patient_of = {image.sha256: image.patient_id for image in images}
    train = {patient_of[digest] for each in split.classes for digest in each.train}
    test = {patient_of[digest] for each in split.classes for digest in each.test}
    assert train and test and not train & test
    for each in split.classes:
        assert each.train and each.test, "every class with two patients trains and tests"
        assert len(each.train) <= 8


def test_shots_come_from_several_patients() -> None:
    images = [
        record(f"{p}-{i}", "basophil", patient_id=f"p{p}") for p in range(10) for i in range(20)
    ]
    split = split_images(images, SplitSettings(shots=16), "split")
    patient_of = {image.sha256: image.patient_id for image in images}
    assert len({patient_of[digest] for digest in split.classes[0].train}) == 5
    assert len({patient_of[digest] for digest in split.classes[0].test}) == 5


def test_near_duplicates_stay_in_one_split() -> None:
    images = []
    for pair in range(20):
        value = int(hashlib.sha256(f"pair {pair}".encode()).hexdigest()[:16], 16)
        for side, flipped in enumerate((0, 0b10101)):
            name = f"{pair}-{side}"
            images.append(record(name, "basophil", phash=f"{value ^ flipped:016x}"))
    group_of = group_images(images)
    assert len(set(group_of.values())) == 20
    split = split_images(images, SplitSettings(shots=10), "split").classes[0]
    train = {group_of[digest] for digest in split.train}
    assert not train & {group_of[digest] for digest in split.test}


def test_near_duplicates_are_found_exactly() -> None:
    rng = random.Random(0)
    base = [rng.getrandbits(64) for _ in range(40)]
    values = base + [
        v ^ sum(1 << b for b in rng.sample(range(64), rng.randint(1, 9))) for v in base
    ]
    hashes = [(str(i), f"{v:016x}") for i, v in enumerate(values)]
    expected = [
        (str(i), str(j))
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= NEAR_DUPLICATE_BITS
    ]
    assert near_duplicates(hashes) == expected
    assert 5 < len(expected) < 40


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (SplitSettings(shots=-1), "split.shots"),
        (SplitSettings(max_test_per_class=-1), "split.max_test_per_class"),
        (SplitSettings(seed=-1), "split.seed"),
        (SplitSettings(class_shots={"basophil": 0}), "split.class_shots['basophil']"),
        (SplitSettings(class_shots={"unicorn": 3}), "split.class_shots['unicorn']"),
    ],
)
def test_bad_settings_name_their_field(settings: SplitSettings, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        split_images(some("basophil", 9), settings, "split")
    assert caught.value.field == field
