"""Privacy figures of a study's replicates for ``report.json``, table and page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from scipy.stats import t as student_t

from services.trainer.evaluation.memorization import ComparisonFigures, DistanceFigures
from services.trainer.studies.results import Membership, Privacy

if TYPE_CHECKING:
    from services.trainer.adapters.membership_inference import Audit

GOAL_AUC = 0.6
"""Membership-inference AUC that the default adapter settings must keep to."""
_SHARES: tuple[Literal["closer_than_held_out", "share_below_p1", "share_below_min"], ...] = (
    "closer_than_held_out",
    "share_below_p1",
    "share_below_min",
)
_KINDS: tuple[Literal["synthetic", "held_out"], ...] = ("synthetic", "held_out")


class PrivacyFacts(TypedDict):
    """What is known of the privacy of one replicate.

    Attributes:
        num_synthetic: Images in its ImageSet.
        num_redrawn: Near-duplicates that the generator withheld and replaced.
        num_withheld: Near-duplicates that the study found all the same and left out.
        membership_inference: As the adapter's manifest has it.
        nearest: Distances of the images that were used.
    """

    num_synthetic: int
    num_redrawn: int
    num_withheld: int
    membership_inference: Audit | None
    nearest: ComparisonFigures | None


def privacy_content(replicates: Sequence[PrivacyFacts]) -> Privacy:
    """The part ``privacy`` of ``report.json``; no figure is NaN.

    Returns:
        ``num_released``, near-duplicates among the images used, is counted once more by
        ``compare``, and None where that was not called.
    """
    num_synthetic = sum(each["num_synthetic"] for each in replicates)
    num_withheld = sum(each["num_withheld"] for each in replicates)
    nearest = [found for each in replicates if (found := each["nearest"])]
    num_released = sum(found["overall"]["num_near_copies"] for found in nearest)
    class_ids = sorted({each for found in nearest for each in found["classes"]})
    return {
        "near_copies": {
            "num_synthetic": num_synthetic,
            "num_redrawn": sum(each["num_redrawn"] for each in replicates),
            "num_withheld": num_withheld,
            "num_used": num_synthetic - num_withheld,
            "num_released": num_released if len(nearest) == len(replicates) else None,
        },
        "membership_inference": _membership(replicates),
        "nearest": None
        if not nearest
        else {
            "metric": nearest[0]["metric"],
            "copy_bits": nearest[0]["copy_bits"],
            "copy_share": nearest[0]["copy_share"],
            "overall": _mean_figures([found["overall"] for found in nearest]),
            "classes": {
                each: _mean_figures(
                    [found["classes"][each] for found in nearest if each in found["classes"]]
                )
                for each in class_ids
            },
        },
    }


def _membership(replicates: Sequence[PrivacyFacts]) -> Membership:
    per_replicate = [each["membership_inference"] for each in replicates]
    known = [found for found in per_replicate if found and found["auc"] is not None]
    mean, low, high = mean_with_interval([found["auc"] for found in known])
    if len(known) == 1:
        low, high = known[0]["low"], known[0]["high"]
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "goal": GOAL_AUC,
        "reaches_goal": None if mean is None else mean <= GOAL_AUC,
        "per_draw": [found or None for found in per_replicate],
    }


def mean_with_interval(
    values: Sequence[float],
) -> tuple[float | None, float | None, float | None]:
    """Mean of AUCs with its 95 % interval over replicates (Student's t).

    Each replicate has an adapter and images of its own, so the spread of AUCs holds the chance of
    both.

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


def _mean_figures(figures: Sequence[DistanceFigures]) -> DistanceFigures:
    mean: DistanceFigures = _mean(figures)
    return mean


def _mean(figures: Sequence[Any]) -> Any:
    """Means of dictionaries by key; counts ("num_…") are added up."""
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


def privacy_rows(privacy: Privacy) -> Iterator[tuple[object, ...]]:
    """Rows of ``metrics.csv``: model, arm, metric, value, low and high."""
    for name, count in privacy["near_copies"].items():
        if count is not None:
            yield "", "privacy", f"near_copies:{name}", count, "", ""
    found = privacy["membership_inference"]
    if found["mean"] is not None:
        ends = ["" if end is None else end for end in (found["low"], found["high"])]
        yield "", "privacy", "membership_auc", found["mean"], *ends
    for number, audit in enumerate(found["per_draw"]):
        if audit and audit["auc"] is not None:
            metric = f"membership_auc:draw_{number}"
            yield "", "privacy", metric, audit["auc"], audit["low"], audit["high"]
    nearest = privacy["nearest"]
    groups = {"": nearest["overall"], **nearest["classes"]} if nearest else {}
    for class_id, figures in groups.items():
        suffix = f":{class_id}" if class_id else ""
        for share in _SHARES:
            if figures[share] is not None:
                yield "", "privacy", f"{share}{suffix}", figures[share], "", ""
        for kind in _KINDS:
            quantiles = figures["distance"][kind]
            if quantiles:
                metric = f"distance_median:{kind}{suffix}"
                yield "", "privacy", metric, quantiles["median"], "", ""
