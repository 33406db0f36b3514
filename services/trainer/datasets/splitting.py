"""Splits a dataset into few-shot training images and locked test images.

The split is a function of the images (by SHA-256) and the settings, not of the order in which
images came. Images of one patient, and near-duplicates of one another, are in the same split.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np

from services.common.errors import InvalidArgument
from services.common.images.near_duplicates import NEAR_DUPLICATE_BITS
from services.common.seeds import MAX_SEED

#: Share of a class's groups held out when a class trains on "all but the test share".
TEST_SHARE = 0.2

#: Digests cover the reasons: one that is worded anew is digested in its first wording.
_WORDING_IN_DIGESTS = ("near-duplicates", "near-" + "copies")


@dataclass(frozen=True)
class ImageRecord:
    """One real image; ``phash`` is the perceptual hash, 16 hex digits."""

    sha256: str
    class_id: str
    file_name: str
    patient_id: str
    phash: str


@dataclass(frozen=True)
class SplitSettings:
    """Settings of a split.

    ``shots`` 0: all but the test share; ``max_test_per_class`` 0: no limit.
    """

    shots: int = 0
    class_shots: dict[str, int] = field(default_factory=dict)
    max_test_per_class: int = 0
    seed: int = 0

    def validate(self, path: str) -> None:
        """Refuses bad values, naming the field below ``path``.

        Raises:
            InvalidArgument: On a negative number or a seed out of range.
        """
        for name, value in (("shots", self.shots), ("max_test_per_class", self.max_test_per_class)):
            if value < 0:
                raise InvalidArgument(f"{path}.{name}", f"is {value}", "send 0 or more")
        for class_id, shots in self.class_shots.items():
            if shots < 1:
                name = f"{path}.class_shots[{class_id!r}]"
                raise InvalidArgument(name, f"is {shots}", "send 1 or more")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidArgument(f"{path}.seed", f"is {self.seed}", "send 0 to 2^63 - 1")


@dataclass(frozen=True)
class ClassSplit:
    """Split of one class: SHA-256 digests of training and test images."""

    class_id: str
    num_images: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    left_out_reason: str = ""


@dataclass(frozen=True)
class Split:
    """The locked split; ``digest`` is the SHA-256 of its canonical JSON."""

    classes: tuple[ClassSplit, ...]
    notices: tuple[str, ...]
    digest: str

    @property
    def train(self) -> list[str]:
        """Digests of the training images of all classes, sorted."""
        return sorted(digest for each in self.classes for digest in each.train)


def split_images(images: Sequence[ImageRecord], settings: SplitSettings, path: str) -> Split:
    """Splits images into training and test images.

    Every class with at least two groups (patients, or images that are no near-duplicates) gets at
    least one training and one test image; other classes are left out with the reason. Rare
    classes choose first, because a patient who trains one class cannot test another.

    Args:
        images: In any order, each digest once.
        settings: Shots, limits and seed.
        path: Request field of the settings, for errors.

    Raises:
        InvalidArgument: On bad settings, shots for a class without images, or no class that
            can be split.
    """
    settings.validate(path)
    by_class: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.sha256):
        by_class[image.class_id].append(image)
    for class_id in settings.class_shots:
        if class_id not in by_class:
            name = f"{path}.class_shots[{class_id!r}]"
            known = ", ".join(sorted(by_class))
            raise InvalidArgument(name, "the class has no image", f"name one of {known}")

    group_of = group_images(images)
    assigned, reasons = _assign_groups(by_class, group_of, settings)
    classes, notices = [], []
    for class_id in sorted(by_class):
        members = by_class[class_id]
        if class_id in reasons:
            classes.append(ClassSplit(class_id, len(members), (), (), reasons[class_id]))
            notices.append(f"class {class_id} is left out: {reasons[class_id]}")
            continue
        chosen = _sample_class(class_id, members, group_of, assigned, settings)
        asked = settings.class_shots.get(class_id, settings.shots)
        if asked and len(chosen.train) < asked:
            notices.append(
                f"class {class_id}: {len(chosen.train)} training images instead of {asked}, "
                f"so that {len(chosen.test)} of its {len(members)} images can test"
            )
        classes.append(chosen)
    if all(each.left_out_reason for each in classes):
        why = "; ".join(notices[:5]) or "there are no images"
        raise InvalidArgument(path, f"no class can be split: {why}", "send more images per class")
    return Split(tuple(classes), tuple(notices), _digest(classes, settings))


def group_images(images: Iterable[ImageRecord]) -> dict[str, str]:
    """Group by SHA-256; images of one group must be in one split."""
    ordered = sorted(images, key=lambda image: image.sha256)
    parent = {image.sha256: image.sha256 for image in ordered}

    def root(item: str) -> str:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    def join(left: str, right: str) -> None:
        first, second = sorted((root(left), root(right)))
        parent[second] = first

    patients: dict[str, str] = {}
    for image in ordered:
        if image.patient_id:
            join(patients.setdefault(image.patient_id, image.sha256), image.sha256)
    for left, right in near_duplicates([(image.sha256, image.phash) for image in ordered]):
        join(left, right)
    return {image.sha256: root(image.sha256) for image in ordered}


def near_duplicates(hashes: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of keys whose perceptual hashes differ by at most ``NEAR_DUPLICATE_BITS``.

    Two hashes that close agree in at least one of 7 bands of bits, so only images that share a
    band are compared: linear in practice, exact always.
    """
    num_bands = NEAR_DUPLICATE_BITS + 1
    edges = [64 * band // num_bands for band in range(num_bands + 1)]
    values = np.array([int(phash, 16) for _, phash in hashes], dtype=np.uint64)
    pairs: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        keys = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(keys, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            for position, left in enumerate(members[:-1]):
                rest = members[position + 1 :]
                near = np.bitwise_count(values[left] ^ values[rest]) <= NEAR_DUPLICATE_BITS
                pairs.update((int(left), int(right)) for right in rest[near])
    return [(hashes[left][0], hashes[right][0]) for left, right in sorted(pairs)]


def _rng(settings: SplitSettings, *names: str) -> random.Random:
    """A random generator that depends on the seed and the names alone."""
    text = "\n".join((str(settings.seed), *names))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def _assign_groups(
    by_class: dict[str, list[ImageRecord]], group_of: dict[str, str], settings: SplitSettings
) -> tuple[dict[str, str], dict[str, str]]:
    """Assigns every group to ``train`` or ``test``; explains classes left out."""
    groups_of_class: dict[str, list[str]] = {}
    for class_id, members in by_class.items():
        groups = sorted({group_of[image.sha256] for image in members})
        _rng(settings, "groups", class_id).shuffle(groups)
        groups_of_class[class_id] = groups
    reasons = {}
    for class_id, groups in groups_of_class.items():
        num_images = len(by_class[class_id])
        if num_images == 1:
            reasons[class_id] = "it has one image, and both training and test need one"
        elif len(groups) == 1:
            reasons[class_id] = (
                f"its {num_images} images are of one patient or near-duplicates of one another, "
                "so none can be held out"
            )
    rarest_first = sorted(
        (class_id for class_id in by_class if class_id not in reasons),
        key=lambda class_id: (len(groups_of_class[class_id]), class_id),
    )
    assigned: dict[str, str] = {}
    for split in ("test", "train"):
        for class_id in rarest_first:
            _reserve(split, groups_of_class[class_id], rarest_first, groups_of_class, assigned)
    for class_id in list(rarest_first):
        held = {assigned.get(group) for group in groups_of_class[class_id]}
        if not {"train", "test"} <= held:
            reasons[class_id] = "its patients are needed on one side by other classes"
            rarest_first.remove(class_id)
    for class_id in rarest_first:
        _add_training_groups(
            class_id, by_class[class_id], groups_of_class[class_id], group_of, settings, assigned
        )
    return {group: assigned.get(group, "test") for group in set(group_of.values())}, reasons


def _reserve(
    split: str,
    groups: list[str],
    classes: list[str],
    groups_of_class: dict[str, list[str]],
    assigned: dict[str, str],
) -> None:
    """Assigns one group to a split that lacks one, sparing other classes."""
    if any(assigned.get(group) == split for group in groups):
        return
    for group in groups:
        if group in assigned:
            continue
        touched = [each for each in classes if group in groups_of_class[each]]
        if all(
            any(rest != group and assigned.get(rest) != split for rest in groups_of_class[each])
            for each in touched
        ):
            assigned[group] = split
            return


def _add_training_groups(
    class_id: str,
    members: list[ImageRecord],
    groups: list[str],
    group_of: dict[str, str],
    settings: SplitSettings,
    assigned: dict[str, str],
) -> None:
    """Assigns free groups to training until the class has its shots.

    At most half of the groups train, unless the shots need more; one always stays for the test.
    """
    sizes = dict.fromkeys(groups, 0)
    for image in members:
        sizes[group_of[image.sha256]] += 1
    asked = settings.class_shots.get(class_id, settings.shots)
    order = [group for group in groups if assigned.get(group) == "train"]
    order += [group for group in groups if group not in assigned]
    if asked:
        needed = next(
            (n for n in range(1, len(order) + 1) if sum(sizes[g] for g in order[:n]) >= asked),
            len(order),
        )
        wanted = max(needed, min(asked, len(groups) // 2))
    else:
        wanted = len(groups) - max(1, math.ceil(TEST_SHARE * len(groups)))
    for group in order[:wanted]:
        assigned[group] = "train"


def _sample_class(
    class_id: str,
    members: list[ImageRecord],
    group_of: dict[str, str],
    assigned: dict[str, str],
    settings: SplitSettings,
) -> ClassSplit:
    """Samples a class's training shots and test images from their assigned groups."""
    train = [each.sha256 for each in members if assigned[group_of[each.sha256]] == "train"]
    test = [each.sha256 for each in members if assigned[group_of[each.sha256]] == "test"]
    _rng(settings, "train", class_id).shuffle(train)
    _rng(settings, "test", class_id).shuffle(test)
    shots = settings.class_shots.get(class_id, settings.shots)
    if shots:
        train = train[:shots]
    if settings.max_test_per_class:
        test = test[: settings.max_test_per_class]
    return ClassSplit(class_id, len(members), tuple(sorted(train)), tuple(sorted(test)))


def _digest(classes: Sequence[ClassSplit], settings: SplitSettings) -> str:
    described = [asdict(each) for each in classes]
    for each in described:
        each["left_out_reason"] = each["left_out_reason"].replace(*_WORDING_IN_DIGESTS)
    content = {"classes": described, "settings": asdict(settings)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
