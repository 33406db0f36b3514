"""A study's goals: reached or missed, with the best result and why."""

from __future__ import annotations

from typing import Any

import pytest

from services.trainer.studies.goals import study_goals


def gain(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"macro_f1": {"mean": mean, "low": low, "high": high}}


def arm(mean: float) -> dict[str, Any]:
    return {"macro_f1": mean, "intervals": {"macro_f1": [mean - 0.02, mean + 0.02]}}


def content(**changes: Any) -> dict[str, Any]:
    """A study of a ResNet whose every goal is reached."""
    return {
        "paired_difference": {"resnet": gain(0.07, 0.03, 0.12)},
        "paired_difference_transfer": {},
        "differences": {"resnet18": {}, "clip": {}},
        "arms": {"resnet18": {"real_only": arm(0.70), "real_plus_synthetic_200": arm(0.77)}},
        "quality": {
            "overall": {"coverage": {"mean": 0.55}},
            "real_against_real": {"overall": {"coverage": {"mean": 0.98}}},
        },
        "privacy": {
            "near_copies": {"num_released": 0, "num_used": 800},
            "membership_inference": {
                "mean": 0.58, "low": 0.51, "high": 0.65, "goal": 0.6, "reaches_goal": True
            },
        },
    } | changes  # fmt: skip


def test_goals_that_are_reached_need_no_reason() -> None:
    goals = study_goals(content())
    assert [goal["reached"] for goal in goals] == [True, True, True]
    assert not any(goal["why"] for goal in goals)
    assert goals[0]["found"] == "+7.0 points, +3.0 to +12.0"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (gain(0.06, -0.01, 0.13), "The interval holds zero"),
        (gain(0.03, 0.01, 0.05), "a smaller one than asked for"),
        (gain(-0.04, -0.06, -0.02), "they cover 55% of its test images, real ones 98%"),
        (gain(-0.04, -0.06, -0.02), "They make it worse, and the interval is below zero."),
        (gain(-0.01, -0.03, 0.01), "No gain: at best they change nothing."),
    ],
)
def test_a_missed_gain_is_said_with_the_best_arm_and_why(
    found: dict[str, Any], reason: str
) -> None:
    [goal, *_] = study_goals(content(paired_difference={"resnet": found}))
    assert goal["reached"] is False and reason in goal["why"]
    assert (
        "Best arm: real + synthetic 200, macro-F1 77.0 % (75.0 to 79.0); real only 70.0 %."
        in goal["why"]
    )


def test_on_top_of_other_cells_any_gain_counts_and_no_gain_does_not() -> None:
    for found, reached in ((gain(0.01, 0.002, 0.02), True), (gain(0.06, -0.01, 0.1), False)):
        goals = study_goals(content(paired_difference_transfer={"resnet": found}))
        assert goals[1]["reached"] is reached and "trained on other cells" in goals[1]["goal"]


def test_real_cells_alone_may_be_the_best_arm() -> None:
    arms = {"clip": {"real_only": arm(0.74), "real_plus_synthetic_200": arm(0.69)}}
    [goal, *_] = study_goals(
        content(arms=arms, paired_difference={"clip": gain(-0.05, -0.07, -0.03)})
    )
    assert goal["why"].endswith("Best arm: real only, macro-F1 74.0 % (72.0 to 76.0).")


def test_what_further_real_images_bring_is_the_measure_and_no_arm_to_choose() -> None:
    arms = content()["arms"]
    arms["resnet18"]["real_plus_further_real_200"] = arm(0.79)
    differences = {"resnet18": {"real_plus_further_real_200": gain(0.09, 0.06, 0.12)}}
    missed = {"resnet": gain(0.03, 0.01, 0.05)}
    [goal, *_] = study_goals(content(arms=arms, differences=differences, paired_difference=missed))
    assert "As many further real images would bring +9.0 points (+6.0 to +12.0)" in goal["why"]
    assert "Best arm: real + synthetic 200" in goal["why"]


def test_privacy_is_judged_only_where_it_was_measured() -> None:
    privacy = content()["privacy"]
    privacy["near_copies"]["num_released"] = 2
    privacy["membership_inference"] |= {"mean": 0.67, "reaches_goal": False}
    copies, membership = study_goals(content(privacy=privacy))[-2:]
    assert (copies["reached"], membership["reached"]) == (False, False)
    assert copies["found"] == "2 of 800" and "0.67" in membership["found"]
    assert copies["why"] and "Privacy" in membership["why"]

    privacy["near_copies"]["num_released"] = None
    privacy["membership_inference"] |= {"mean": None, "low": None, "reaches_goal": None}
    for goal in study_goals(content(privacy=privacy))[-2:]:
        assert goal["reached"] is None and goal["found"] == "not measured" and not goal["why"]

    assert len(study_goals(content(privacy=None, quality=None))) == 1
