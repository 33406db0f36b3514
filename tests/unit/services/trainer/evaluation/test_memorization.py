"""Planted copies are flagged in every disguise, and new cells are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn

from services.common.images.near_duplicates import orientations
from services.trainer.evaluation.memorization import MIN_REFERENCE, compare, flag_copies
from services.trainer.evaluation.nearest import ImageFeatures, nearest_training
from services.trainer.evaluation.triplets import triplet_pictures
from tests.support.few_shot import CLASSES

NUM_TRAINING, NUM_HELD_OUT, NUM_SYNTHETIC = 12, 30, 20
SIZE_PX = 64


def features_of(images: np.ndarray) -> np.ndarray:
    """A small feature space: coarse grey shapes without mean brightness and contrast."""
    grey = images.astype(float).mean(axis=-1)
    grey = np.array([np.asarray(Image.fromarray(each).resize((16, 16))) for each in grey])
    coarse = dctn(grey, axes=(1, 2), norm="ortho")[:, :6, :6].reshape(len(grey), 36)[:, 1:]
    return coarse / np.linalg.norm(coarse, axis=1, keepdims=True)


def cells(images: list[np.ndarray], class_ids: list[str], turned: bool = False) -> ImageFeatures:
    array = np.array(images).reshape(-1, SIZE_PX, SIZE_PX, 3).astype(np.uint8)
    if turned:
        features = np.array([features_of(np.array(orientations(each))) for each in array])
    else:
        features = features_of(array) if len(array) else np.zeros((0, 35))
    return ImageFeatures(array, features, class_ids)


def texture(class_id: str, seed: int) -> np.ndarray:
    """A smooth image, as unlike others as cells of different people are."""
    rng = np.random.default_rng([seed, *class_id.encode()])
    coarse = Image.fromarray(rng.integers(0, 255, (7, 7, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


def draw(first: int, count: int, turned: bool = False) -> ImageFeatures:
    """``count`` new images of each class."""
    class_ids = [each for each in CLASSES for _ in range(count)]
    seeds = [*range(first, first + count)] * len(CLASSES)
    images = [texture(c, s) for c, s in zip(class_ids, seeds, strict=True)]
    return cells(images, class_ids, turned)


@pytest.fixture(scope="module")
def training() -> ImageFeatures:
    return draw(0, NUM_TRAINING, turned=True)


@pytest.fixture(scope="module")
def held_out() -> ImageFeatures:
    return draw(1000, NUM_HELD_OUT)


def disguised(image: np.ndarray, how: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if how == "turned and mirrored":
        return np.rot90(image, 3)[:, ::-1]
    if how == "noisy":
        return np.clip(image + rng.normal(0, 8, image.shape), 0, 255)
    if how == "recoloured":
        return np.clip(image[:, :, [2, 0, 1]] * np.array([0.9, 1.0, 0.8]) + 12, 0, 255)
    if how == "blurred":
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))
    assert how == "shifted"
    return np.roll(image, (1, 1), (0, 1))


HOW = ("turned and mirrored", "noisy", "recoloured", "blurred", "shifted")


@pytest.mark.parametrize("how", HOW)
def test_a_planted_copy_is_flagged_in_every_disguise(
    training: ImageFeatures, held_out: ImageFeatures, how: str
) -> None:
    planted = [5, 17, 30]
    new = draw(2000, NUM_SYNTHETIC)
    images = [*new.images, *(disguised(training.images[each], how) for each in planted)]
    class_ids = [*new.class_ids, *(training.class_ids[each] for each in planted)]
    found = compare(cells(images, class_ids), training, held_out)
    assert found.figures["overall"]["num_flagged"] == 3
    closest = [each for each in found.triplets if each["kind"] == "closest"]
    assert {each["training"] for each in closest if each["flagged"]} == set(planted)
    assert {each["synthetic"] for each in closest[:3]} == {60, 61, 62}
    assert [each.by_hash for each in found.each[60:]] == planted, "nearest by hash"
    assert [each.flagged for each in found.each] == [False] * 60 + [True] * 3


def test_new_cells_are_as_far_as_held_out_ones_and_none_is_flagged(
    training: ImageFeatures, held_out: ImageFeatures
) -> None:
    found = compare(draw(3000, NUM_SYNTHETIC), training, held_out).figures
    overall = found["overall"]
    assert overall["num_flagged"] == overall["num_near_copies"] == 0
    assert overall["closer_than_held_out"] == pytest.approx(0.5, abs=0.1)
    assert overall["share_below_min"] <= 0.05
    assert overall["expected_below_min"] == pytest.approx(1 / 91, abs=1e-5)
    assert set(found["classes"]) == set(CLASSES)
    for figures in found["classes"].values():
        assert (figures["num_synthetic"], figures["num_held_out"]) == (20, 30)
        for side in figures["distance"].values():
            assert side["min"] <= side["p1"] <= side["median"] <= side["p75"]
    assert sum(found["classes"][c]["num_flagged"] for c in CLASSES) == 0
    json.dumps(found, allow_nan=False)


def test_cells_that_lean_on_training_images_are_closer_than_held_out(
    training: ImageFeatures, held_out: ImageFeatures
) -> None:
    new = draw(4000, NUM_TRAINING)
    halfway = list((new.images / 2 + training.images / 2).astype(np.uint8))
    found = compare(cells(halfway, list(new.class_ids)), training, held_out).figures
    assert found["overall"]["closer_than_held_out"] > 0.8
    assert found["overall"]["share_below_min"] > 0.1


def test_the_nearest_is_found_with_its_orientation(training: ImageFeatures) -> None:
    turned = orientations(training.images[7])[6]
    found = nearest_training(cells([turned], ["x"]), training)
    assert (found.index[0], found.bits_index[0], found.bits[0]) == (7, 7, 0)
    assert found.distance[0] == pytest.approx(0, abs=1e-6)
    for orientation in (found.orientation[0], found.bits_orientation[0]):
        assert np.abs(orientations(training.images[7])[orientation].astype(int) - turned).mean() < 1


def test_a_class_with_few_held_out_images_is_judged_by_all(training: ImageFeatures) -> None:
    few = draw(5000, MIN_REFERENCE - 1)
    ours = nearest_training(draw(6000, 2), training)
    theirs = nearest_training(few, training)
    lone = np.array(["other"] * len(few.class_ids))
    by_all = flag_copies(ours, ["x"] * 6, theirs, lone.tolist())
    assert (by_all == flag_copies(ours, ["y"] * 6, theirs, few.class_ids)).all()
    nobody = nearest_training(cells([], []), training)
    assert not flag_copies(ours, ["x"] * 6, nobody, []).any()


def test_without_held_out_or_synthetic_images_it_says_nothing(training: ImageFeatures) -> None:
    new, none = draw(7000, 2), cells([], [])
    alone = compare(new, training, none)
    assert alone.figures["overall"]["closer_than_held_out"] is None
    assert alone.figures["overall"]["distance"]["held_out"] is None
    assert all(each["held_out"] is None for each in alone.triplets)
    empty = compare(none, training, new)
    assert empty.triplets == []
    assert empty.figures["overall"]["distance"]["synthetic"] is None
    json.dumps([alone.figures, alone.triplets, empty.figures], allow_nan=False)


def test_pictures_are_of_the_images_that_were_compared(
    training: ImageFeatures, held_out: ImageFeatures
) -> None:
    new = draw(8000, 6)
    found = compare(new, training, held_out, num_shown=2)
    assert [each["kind"] for each in found.triplets] == ["closest"] * 2 + ["random"] * 2
    assert compare(new, training, held_out, num_shown=2) == found, "the same every time"
    shown = triplet_pictures(found.triplets, new.images, training.images, held_out.images)
    for triplet, before in zip(shown, found.triplets, strict=True):
        assert set(triplet["pictures"]) == {"synthetic", "training", "held_out"}
        assert all(p.startswith("data:image/png;base64,") for p in triplet["pictures"].values())
        assert before.items() <= triplet.items()
