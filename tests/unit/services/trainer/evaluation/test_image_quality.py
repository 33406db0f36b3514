"""Image quality with its papers' values; notes where images are too few."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from services.trainer.evaluation.image_quality import (
    NOTE_BIASED,
    NOTE_FEW,
    NOTE_NO_SPREAD,
    NOTE_SAMPLED,
    NOTE_TOO_FEW,
    image_quality,
    quality_by_class,
)

DISTANCES = ("fid", "kid", "cmmd")
SHARES = ("precision", "recall", "density", "coverage")


def drawn(count: int, width: int = 16, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    features = np.random.default_rng(seed).normal(size=(count, width))
    features[:, 0] += shift
    return features.astype(np.float32)


def exactly(mean: Any, covariance: Any, seed: int, count: int = 50) -> np.ndarray:
    """Features whose own mean and (unbiased) covariance are these."""
    sample = np.random.default_rng(seed).normal(size=(count, len(mean)))
    sample -= sample.mean(axis=0)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(sample.T)))
    return np.asarray(sample @ white.T @ np.linalg.cholesky(covariance).T + mean)


def test_fid_is_the_closed_form_of_two_gaussians() -> None:
    left, right = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    assert not np.allclose(left @ right, right @ left), "the harder case: they do not commute"
    product = left @ right
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))  # 2 × 2 only
    expected = 3.0**2 + 1.0**2 + np.trace(left) + np.trace(right) - 2 * root
    found = image_quality(exactly((1.0, 2.0), left, 0), exactly((4.0, 1.0), right, 1))
    assert found["fid"] == pytest.approx(expected, rel=1e-6)
    assert found["fid_comparable"] is True and found["note"] == NOTE_BIASED


def test_kid_and_cmmd_are_those_of_a_calculation_by_hand() -> None:
    found = image_quality(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]))
    # (xy + 1)³: 1 within the first pair, 343 within the second, 93 / 4 between them
    assert found["kid"] == pytest.approx(1 + 343 - 2 * 93 / 4)
    right, up, left = (3.0, 0.0), (0.0, 0.5), (-2.0, 0.0)  # lengths do not count
    found = image_quality(np.array([right, up]), np.array([left, up]))
    near, far = math.exp(-2 / 200), math.exp(-4 / 200)
    assert found["cmmd"] == pytest.approx(1000 * (2 * near - 2 * (1 + 2 * near + far) / 4))


def test_the_same_images_cover_each_other_and_their_copies_show_in_kid() -> None:
    images = drawn(200)
    found = image_quality(images, images)
    assert found["fid"] == pytest.approx(0, abs=1e-6)
    assert [found[share] for share in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    assert found["density"] == pytest.approx(1, abs=0.05)
    assert found["kid_interval"][1] < 0 and found["cmmd_interval"][1] < 0


def test_images_of_one_distribution_are_at_no_distance() -> None:
    found = image_quality(drawn(200), drawn(200, seed=1))
    for measure in ("kid", "cmmd"):
        assert abs(found[measure]) < 2 * found[f"{measure}_std"]
        low, high = found[f"{measure}_interval"]
        assert low < 0 < high
    assert all(found[share] > 0.8 for share in SHARES)
    assert found["fid"] > 0.5


def test_images_further_off_are_worse_by_every_measure() -> None:
    found = [image_quality(drawn(150), drawn(150, seed=1, shift=s)) for s in (0, 1, 2, 4, 8)]
    for nearer, further in pairwise(found):
        assert all(further[measure] > nearer[measure] for measure in DISTANCES)
        assert all(further[share] <= nearer[share] for share in SHARES)
    assert found[0]["precision"] > 0.8 and found[-1]["precision"] < 0.05
    low, _ = found[-1]["kid_interval"]
    assert low > found[0]["kid_interval"][1]


def test_a_generator_that_draws_one_kind_only_loses_recall_and_coverage_not_precision() -> None:
    kinds = np.concatenate([drawn(200, seed=2, shift=-10), drawn(200, seed=3, shift=10)])
    whole = np.concatenate([drawn(200, seed=4, shift=-10), drawn(200, seed=5, shift=10)])
    half = drawn(400, seed=6, shift=10)
    both, one = image_quality(kinds, whole), image_quality(kinds, half)
    assert both["precision"] > 0.8 and one["precision"] > 0.8
    assert both["recall"] > 0.8 and both["coverage"] > 0.8
    assert one["recall"] < 0.55 and one["coverage"] < 0.55


def test_of_few_images_kid_and_cmmd_are_unbiased_and_fid_is_not() -> None:
    found = [image_quality(drawn(20, 32, seed=n), drawn(20, 32, seed=1000 + n)) for n in range(80)]
    for measure in ("kid", "cmmd"):
        values = np.array([each[measure] for each in found])
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean()) < 4 * error
    biased = np.array([each["fid"] for each in found])
    assert biased.min() > 10, "no draw of equal distributions comes near 0"
    assert all(not each["fid_comparable"] and each["note"] == NOTE_FEW for each in found)


def test_the_spread_over_subsets_is_about_that_over_new_images() -> None:
    found = [image_quality(drawn(60, 8, n, 1.0), drawn(60, 8, 500 + n)) for n in range(40)]
    for measure in ("kid", "cmmd"):
        over_images = np.std([each[measure] for each in found])
        over_subsets = np.mean([each[f"{measure}_std"] for each in found])
        assert 0.7 < over_subsets / over_images < 2


@pytest.mark.parametrize("n_real", [0, 1, 2, 3, 4, 12])
@pytest.mark.parametrize("n_synthetic", [0, 1, 2, 3, 4, 12])
def test_too_few_images_give_no_value_instead_of_a_wrong_one(n_real: int, n_synthetic: int) -> None:
    found = image_quality(drawn(n_real), drawn(n_synthetic, seed=1))
    json.dumps(found, allow_nan=False)
    fewest = min(n_real, n_synthetic)
    for distance in DISTANCES:
        assert (found[distance] is None) == (fewest < 2)
    for share in SHARES:
        assert (found[share] is None) == (fewest < 3)
    for spread in ("kid_std", "kid_interval", "cmmd_std", "cmmd_interval"):
        assert (found[spread] is None) == (fewest < 4)
    assert found["nearest_k"] == {3: 1, 4: 1, 12: 5}.get(fewest)
    assert (NOTE_NO_SPREAD in found["note"]) == (fewest < 4)
    assert (NOTE_TOO_FEW in found["note"]) == (fewest < 3)
    assert (found["n_real"], found["n_synthetic"]) == (n_real, n_synthetic)


def test_images_that_are_all_one_image_are_measured_too() -> None:
    collapsed = np.ones((30, 16), np.float32)
    found = image_quality(drawn(30), collapsed)
    json.dumps(found, allow_nan=False)
    assert found["recall"] == 0
    json.dumps(image_quality(collapsed, 0 * collapsed), allow_nan=False)


def test_the_seed_alone_decides_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    real, synthetic = drawn(40), drawn(50, seed=1)
    first = image_quality(real, synthetic)
    np.random.default_rng().normal(size=9)
    assert image_quality(real, synthetic) == first
    assert image_quality(real, synthetic, seed=1)["kid"] != first["kid"]
    assert capsys.readouterr().out == ""


def test_very_many_images_are_sampled_where_pairs_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.trainer.evaluation.image_quality._MOST_IMAGES", 30)
    found = image_quality(drawn(40), drawn(20, seed=1, shift=2))
    assert NOTE_SAMPLED in found["note"] and found["n_real"] == 40
    assert found["coverage"] * 30 == pytest.approx(round(found["coverage"] * 30))
    assert found["coverage"] * 40 != pytest.approx(round(found["coverage"] * 40))


@pytest.mark.parametrize(
    ("real", "synthetic", "problem"),
    [
        (drawn(4)[0], drawn(4), r"real features must be \(N, D\), not \(16,\)"),
        (drawn(4), drawn(4)[None], r"synthetic features must be \(N, D\)"),
        (drawn(4), drawn(4, 8), "of one space, not 16 and 8 numbers"),
        (drawn(4), drawn(4) * np.nan, "synthetic features must be finite"),
        (drawn(4) * np.inf, drawn(4), "real features must be finite"),
    ],
)
def test_features_of_another_form_are_refused(
    real: np.ndarray, synthetic: np.ndarray, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        image_quality(real, synthetic)


def labelled(*counts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """That many images of each class; classes lie far from one another."""
    features = [drawn(n, seed=seed + label, shift=20 * label) for label, n in enumerate(counts)]
    return np.concatenate(features), np.repeat(np.arange(len(counts)), counts)


def test_another_mix_of_classes_is_no_worse_quality() -> None:
    real, synthetic = labelled(100, 40, seed=0), labelled(50, 150, seed=10)
    found = quality_by_class(real, synthetic, ["a", "b"])
    overall = found["overall"]
    assert (overall["n_real"], overall["n_synthetic"]) == (90, 90)
    low, high = overall["kid_interval"]
    assert low < 0 < high
    pooled = image_quality(real[0], synthetic[0])
    assert pooled["kid_interval"][0] > 0, "without that care the mix alone would be seen"
    sizes = {c: (row["n_real"], row["n_synthetic"]) for c, row in found["per_class"].items()}
    assert sizes == {"a": (100, 50), "b": (40, 150)}


def test_a_class_that_is_drawn_badly_shows_in_its_own_row_alone() -> None:
    real, (features, labels) = labelled(60, 60, seed=0), labelled(60, 60, seed=10)
    features[labels == 1, 1] += 6
    by_class = quality_by_class(real, (features, labels), ["a", "b"])["per_class"]
    assert by_class["a"]["precision"] > 0.8 and by_class["b"]["precision"] < 0.3
    assert by_class["a"]["kid_interval"][0] < 0 < by_class["b"]["kid_interval"][0]


def test_a_class_without_synthetic_images_has_a_row_without_values() -> None:
    found = quality_by_class(labelled(30, 30, seed=0), labelled(30, 0, seed=10), ["a", "b"])
    json.dumps(found, allow_nan=False)
    assert found["per_class"]["b"]["kid"] is None
    assert found["overall"]["n_real"] == 30 and found["overall"]["kid"] is not None
    assert found["real_against_real"]["per_class"]["b"]["kid"] is not None


def test_real_against_real_compares_two_halves_that_share_no_image() -> None:
    far_apart = np.eye(40, dtype=np.float32)  # every two at the same distance
    labels = np.repeat([0, 1], [21, 19])
    found = quality_by_class((far_apart, labels), (far_apart, labels), ["a", "b"])
    assert found["overall"]["precision"] == 1, "these are the same images"
    baseline = found["real_against_real"]
    assert baseline["overall"]["precision"] == 0
    sizes = [(row["n_real"], row["n_synthetic"]) for row in baseline["per_class"].values()]
    assert sizes == [(10, 11), (9, 10)]
    assert (baseline["overall"]["n_real"], baseline["overall"]["n_synthetic"]) == (19, 19)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(np.zeros(3, int), "4 features need as many labels"), (np.arange(4), "count 2 classes")],
)
def test_labels_must_fit(labels: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        quality_by_class((drawn(4), labels), (drawn(4), np.zeros(4, int)), ["a", "b"])
