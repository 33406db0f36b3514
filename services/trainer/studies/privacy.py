"""What a study found about privacy: figures of all draws for ``report.json``, table and page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student_t

GOAL_AUC = 0.6
"""Membership-inference AUC that the default recipe is to keep to."""


def privacy_content(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part ``privacy`` of ``report.json``.

    Args:
        draws: Of each draw of the study ``num_synthetic`` (images in its ImageSet),
            ``num_redrawn`` (near-duplicates that the generator withheld and drew again),
            ``num_withheld`` (near-duplicates that the study found all the same and left out),
            ``membership_inference`` (of the adapter's manifest, or None) and ``nearest``
            (``nearest_training.compare`` of the images that were used, or None).

    Returns:
        ``near_copies``: counts over all draws; ``num_released``, near-duplicates among the images
        used, is counted once more by ``compare``, and None where that was not called.
        ``membership_inference``: ``mean`` of the draws' AUC with its 95 % interval, None
        where no draw has one; ``goal``, ``reaches_goal``, ``per_draw``. ``nearest``: ``overall``
        and ``classes``, means over draws. Nothing in it is NaN.
    """
    num_synthetic = sum(draw["num_synthetic"] for draw in draws)
    num_withheld = sum(draw["num_withheld"] for draw in draws)
    nearest = [draw["nearest"] for draw in draws if draw.get("nearest")]
    num_released = sum(found["overall"]["num_near_copies"] for found in nearest)
    class_ids = sorted({each for found in nearest for each in found["classes"]})
    return {
        "near_copies": {
            "num_synthetic": num_synthetic,
            "num_redrawn": sum(draw["num_redrawn"] for draw in draws),
            "num_withheld": num_withheld,
            "num_used": num_synthetic - num_withheld,
            "num_released": num_released if len(nearest) == len(draws) else None,
        },
        "membership_inference": _membership(draws),
        "nearest": None
        if not nearest
        else {
            "metric": nearest[0]["metric"],
            "copy_bits": nearest[0]["copy_bits"],
            "copy_share": nearest[0]["copy_share"],
            "overall": _mean([found["overall"] for found in nearest]),
            "classes": {
                each: _mean([found["classes"].get(each) for found in nearest]) for each in class_ids
            },
        },
    }


def _membership(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    per_draw = [draw.get("membership_inference") for draw in draws]
    known = [found for found in per_draw if found and found["auc"] is not None]
    mean, low, high = mean_with_interval([found["auc"] for found in known])
    if len(known) == 1:
        low, high = known[0]["low"], known[0]["high"]
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "goal": GOAL_AUC,
        "reaches_goal": None if mean is None else mean <= GOAL_AUC,
        "per_draw": [dict(found) if found else None for found in per_draw],
    }


def mean_with_interval(
    values: Sequence[float],
) -> tuple[float | None, float | None, float | None]:
    """Mean of AUCs with its 95 % interval over draws (Student's t), within 0 and 1.

    Each draw has an adapter and images of its own, so their spread holds the chance of both.

    Returns:
        Mean, low and high end; the ends are None for one value, all are for none.
    """
    if not values:
        return None, None, None
    mean = float(np.mean(values))
    if len(values) < 2:
        return round(mean, 4), None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(student_t.ppf(0.975, len(values) - 1)) * error
    return round(mean, 4), round(max(0.0, mean - half), 4), round(min(1.0, mean + half), 4)


def _mean(figures: Sequence[Any]) -> Any:
    """Mean of dictionaries of numbers, entry by entry; counts ("num_…") are added up."""
    given = [each for each in figures if each is not None]
    if not given:
        return None
    if not isinstance(given[0], Mapping):
        return round(float(np.mean(given)), 5)
    return {
        key: sum(each[key] for each in given)
        if key.startswith("num_")
        else _mean([each[key] for each in given])
        for key in given[0]
    }


def privacy_rows(privacy: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``metrics.csv``: model, arm, metric, value, low and high end of the interval."""
    for name, count in privacy["near_copies"].items():
        if count is not None:
            yield "", "privacy", f"near_copies:{name}", count, "", ""
    found = privacy["membership_inference"]
    if found["mean"] is not None:
        ends = ["" if found[end] is None else found[end] for end in ("low", "high")]
        yield "", "privacy", "membership_auc", found["mean"], *ends
    for number, draw in enumerate(found["per_draw"]):
        if draw and draw["auc"] is not None:
            metric = f"membership_auc:draw_{number}"
            yield "", "privacy", metric, draw["auc"], draw["low"], draw["high"]
    nearest = privacy["nearest"]
    groups = {"": nearest["overall"], **nearest["classes"]} if nearest else {}
    for class_id, figures in groups.items():
        suffix = f":{class_id}" if class_id else ""
        for metric in ("closer_than_held_out", "share_below_p1", "share_below_min"):
            if figures[metric] is not None:
                yield "", "privacy", f"{metric}{suffix}", figures[metric], "", ""
        for side, quantiles in figures["distance"].items():
            if quantiles:
                metric = f"distance_median:{side}{suffix}"
                yield "", "privacy", metric, quantiles["median"], "", ""
