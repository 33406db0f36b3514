"""The report's privacy results: sums over replicates, plainly told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from services.trainer.evaluation.memorization import compare
from services.trainer.evaluation.nearest import ImageFeatures
from services.trainer.evaluation.triplets import triplet_pictures
from services.trainer.reports.page import page_environment
from services.trainer.studies.privacy import mean_with_interval, privacy_content, privacy_rows


def cells(first: int, count: int) -> ImageFeatures:
    rng = np.random.default_rng(first)
    images = rng.integers(0, 255, (count, 64, 64, 3)).astype(np.uint8)
    features = rng.normal(size=(count, 8)).astype(np.float32)
    return ImageFeatures(images, features, ["basophil", "monocyte"] * (count // 2))


SIDES = (cells(1, 6), cells(2, 8), cells(3, 10))


def audited(auc: float) -> dict[str, Any]:
    return {
        "auc": auc,
        "low": auc - 0.05,
        "high": auc + 0.05,
        "tpr_at_5_fpr": 0.1,
        "tpr_at_1_fpr": 0.02,
        "num_members": 90,
        "num_non_members": 90,
        "method": "attack",
    }


def draw(membership: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    counts = {"num_synthetic": 100, "num_redrawn": 3, "num_withheld": 1}
    return {
        **counts,
        "membership_inference": membership,
        "nearest": compare(*SIDES).figures,
        **changes,
    }


def page(content: dict[str, Any], show_images: bool = True) -> str:
    triplets = compare(*SIDES).triplets
    gallery = triplet_pictures(triplets, *(side.images for side in SIDES))
    template = page_environment().get_template("privacy.html.j2")
    shown: str = template.render(
        report={"privacy": content}, gallery=gallery, show_images=show_images
    )
    return shown


def test_replicates_are_counted_together_and_their_figures_averaged() -> None:
    content = privacy_content([draw(audited(0.5)), draw(audited(0.6)), draw(audited(0.58))])
    assert content["near_copies"] == {
        "num_synthetic": 300,
        "num_redrawn": 9,
        "num_withheld": 3,
        "num_used": 297,
        "num_released": 0,
    }
    membership = content["membership_inference"]
    assert membership["mean"] == pytest.approx(0.56)
    assert membership["low"] < 0.5 and membership["high"] > 0.6 and membership["reaches_goal"]
    one = compare(*SIDES).figures["overall"]
    overall = content["nearest"]["overall"]
    assert overall["num_synthetic"] == 3 * one["num_synthetic"]
    assert overall["distance"] == one["distance"]
    assert overall["closer_than_held_out"] == one["closer_than_held_out"]
    json.dumps(content, allow_nan=False)


def test_what_was_not_measured_is_none_and_not_zero() -> None:
    reason = {"auc": None, "reason": "fewer than two images", "num_members": 1}
    content = privacy_content([draw(reason, nearest=None), draw(None, nearest=None)])
    assert content["membership_inference"]["mean"] is None
    assert content["membership_inference"]["reaches_goal"] is None
    assert content["nearest"] is None and content["near_copies"]["num_released"] is None
    shown = page(content)
    assert "Not measured: fewer than two images" in shown
    assert "audit" in page(privacy_content([draw(None)]))
    names = ("num_synthetic", "num_redrawn", "num_withheld", "num_used")
    assert [row[2] for row in privacy_rows(content)] == [f"near_copies:{each}" for each in names]


def test_an_interval_is_student_s_over_replicates() -> None:
    found = mean_with_interval([0.5, 0.52, 0.54, 0.56, 0.58])
    assert found == pytest.approx((0.54, 0.5007, 0.5793), abs=2e-4)
    assert mean_with_interval([0.7]) == (0.7, None, None)
    assert mean_with_interval([]) == (None, None, None)
    one = privacy_content([draw(audited(0.55))])["membership_inference"]
    assert (one["low"], one["high"]) == (0.5, pytest.approx(0.6))
    assert mean_with_interval([0.9, 1.0])[2] == 1.0


def test_the_page_says_plainly_what_is_traded() -> None:
    good, bad = (page(privacy_content([draw(audited(auc))] * 2)) for auc in (0.55, 0.8))
    assert "Within the goal of 0.6" in good and "What is traded" not in good
    assert "What is traded" in bad and "0.800" in bad and "not adapters" in bad
    assert "6 withheld and generated again by the generator, 2 found by the study" in good
    assert "http" not in good, "it fetches nothing"


def test_real_images_are_shown_with_a_warning_or_not_at_all() -> None:
    content = privacy_content([draw(audited(0.55))])
    shown, hidden = page(content), page(content, show_images=False)
    assert shown.count("data:image/png") == 3 * 6 and "patient data" in shown
    assert "data:image" not in hidden and "not shown" in hidden


def test_rows_are_those_of_the_table() -> None:
    rows = list(privacy_rows(privacy_content([draw(audited(0.5)), draw(audited(0.6))])))
    assert all(len(row) == 6 and row[:2] == ("", "privacy") for row in rows)
    found = {row[2]: row[3] for row in rows}
    assert found["membership_auc"] == 0.55 and found["membership_auc:draw_1"] == 0.6
    assert found["near_copies:num_released"] == 0
    assert found["closer_than_held_out:monocyte"] >= 0
    assert {"distance_median:synthetic", "distance_median:held_out:basophil"} <= set(found)
