"""Goals of a study: reached or missed, and why.

Written by code from the figures of the report, so that a no is said as plainly as a yes.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.trainer.reports.charts import arm_label, model_label
from services.trainer.studies.recipe import REAL_ONLY, REAL_PLUS_FURTHER_REAL
from services.trainer.studies.results import Difference, Findings, Goal, Privacy

LEAST_GAIN = 0.05
"""Gain of macro-F1 to reach from scratch; another seed changes less."""
_WORSE_COVERAGE = 0.9
"""Share of the reachable coverage below which coverage is a cause."""


def study_goals(content: Findings) -> list[Goal]:
    """The part ``goals`` of ``report.json``.

    ``why`` is empty where a goal is reached or not measured.
    """
    return [*_gains(content), *_privacy(content["privacy"])]


def _gains(content: Findings) -> Iterator[Goal]:
    transfer = content["paired_difference_transfer"]
    for found, start, least in (
        (content["paired_difference"], "from scratch", LEAST_GAIN),
        (transfer, "from weights trained on other cells", 0.0),
    ):
        for model in content["arms"]:
            family = "resnet" if model.startswith("resnet") else model
            if family not in found:
                continue
            gain = found[family]["macro_f1"]
            reached = gain["mean"] >= least and gain["low"] > 0
            size = f"at least {_points(least)} points" if least else "a gain"
            yield {
                "goal": f"{model_label(model)} {start}: synthetic images bring {size} of "
                "macro-F1, interval above zero",
                "found": f"{_points(gain['mean'])} points, {_points(gain['low'])} to "
                f"{_points(gain['high'])}",
                "reached": reached,
                "why": "" if reached else " ".join(_causes(content, model, gain, least)),
            }


def _causes(content: Findings, model: str, gain: Difference, least: float) -> Iterator[str]:
    if 0 < gain["low"] < least:
        yield "A gain is shown, a smaller one than asked for."
    elif gain["high"] < 0:
        yield "They make it worse, and the interval is below zero."
    elif gain["mean"] <= 0:
        yield "No gain: at best they change nothing."
    elif gain["low"] <= 0:
        yield "The interval holds zero: more draws or test images would narrow it."
    quality = content["quality"]
    if quality:
        ours, theirs = quality["overall"], quality["real_against_real"]["overall"]
        covered, reachable = ours["coverage"], theirs["coverage"]
        if covered and reachable and covered["mean"] < _WORSE_COVERAGE * reachable["mean"]:
            yield (
                "The synthetic cells are not yet like this laboratory's: they cover "
                f"{covered['mean']:.0%} of its test images, real ones {reachable['mean']:.0%}."
            )
    further = next(
        (
            found["macro_f1"]
            for arm, found in content["differences"][model].items()
            if arm.startswith(REAL_PLUS_FURTHER_REAL)
        ),
        None,
    )
    if further is not None and least:
        yield (
            f"As many further real images would bring {_points(further['mean'])} points "
            f"({_points(further['low'])} to {_points(further['high'])}), about the most that "
            "synthetic ones could."
        )
    by_arm = {
        arm: found
        for arm, found in content["arms"][model].items()
        if not arm.startswith(REAL_PLUS_FURTHER_REAL)
    }
    best = max(by_arm, key=lambda arm: by_arm[arm]["macro_f1"])
    low, high = by_arm[best]["intervals"]["macro_f1"]
    text = f"Best arm: {arm_label(best)}, macro-F1 {100 * by_arm[best]['macro_f1']:.1f} % "
    text += f"({100 * low:.1f} to {100 * high:.1f})"
    if best != REAL_ONLY:
        text += f"; real only {100 * by_arm[REAL_ONLY]['macro_f1']:.1f} %"
    yield f"{text}."


def _privacy(privacy: Privacy | None) -> Iterator[Goal]:
    if not privacy:
        return
    copies, membership = privacy["near_copies"], privacy["membership_inference"]
    released = copies["num_released"]
    yield {
        "goal": "No near-copy of a training image is released",
        "found": "not measured" if released is None else f"{released} of {copies['num_used']}",
        "reached": None if released is None else released == 0,
        "why": "" if not released else "The hashes found copies that no gate withheld.",
    }
    auc, ends = membership["mean"], ""
    if membership["low"] is not None and membership["high"] is not None:
        ends = f", {membership['low']:.2f} to {membership['high']:.2f}"
    yield {
        "goal": f"Membership-inference AUC of the adapters at most {membership['goal']}",
        "found": "not measured" if auc is None else f"{auc:.2f}{ends}",
        "reached": membership["reaches_goal"],
        "why": ""
        if auc is None or membership["reaches_goal"]
        else "The adapters have learned their few training images closely; what that is traded "
        "for stands below, under Privacy.",
    }


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
