"""Image quality of a study: measures of ``image_quality.py`` over replicates."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Literal

from services.trainer.evaluation.feature_space import FeatureSpaceName
from services.trainer.evaluation.image_quality import (
    ClassQuality,
    ImageQuality,
    ReferencedQuality,
)
from services.trainer.studies.results import Quality, QualityFigure, QualityRow, QualityRows

Measure = Literal["fid", "kid", "cmmd", "precision", "recall", "density", "coverage"]
MEASURES: tuple[Measure, ...] = ("fid", "kid", "cmmd", "precision", "recall", "density", "coverage")
_INTERVALS: dict[Measure, Literal["kid_interval", "cmmd_interval"]] = {
    "kid": "kid_interval",
    "cmmd": "cmmd_interval",
}
SYNTHETIC = "synthetic"
REAL_AGAINST_REAL = "real_against_real"


def study_quality(
    replicates: Sequence[ReferencedQuality], feature_space: FeatureSpaceName
) -> Quality:
    """The part ``quality`` of ``report.json``: means over replicates.

    Args:
        replicates: Result of ``quality_by_class`` for each replicate, at least one.
        feature_space: Name and revision.

    Returns:
        Measures of the synthetic images, and of one half of the real images against the other.
        KID and CMMD also have ``interval``: the ends of the replicates' own intervals, averaged.

    Raises:
        ValueError: If there are no replicates.
    """
    if not replicates:
        raise ValueError("image quality needs at least one replicate")
    return {
        "feature_space": feature_space,
        "num_draws": len(replicates),
        **_rows(replicates),
        "real_against_real": _rows([each["real_against_real"] for each in replicates]),
    }


def quality_rows(quality: Quality) -> Iterator[tuple[object, ...]]:
    """Rows of the CSV: feature space, arm, metric, value, low and high.

    The arm is ``synthetic`` or ``real_against_real``, the metric ``kid`` or ``kid:<class>``. Low
    and high are the interval of KID and CMMD, else empty. A value that no replicate has is left
    out.
    """
    space = quality["feature_space"]["name"]
    groups: tuple[tuple[str, QualityRows], ...] = (
        (SYNTHETIC, quality),
        (REAL_AGAINST_REAL, quality["real_against_real"]),
    )
    for arm, rows in groups:
        by_name = {"": rows["overall"]} | {f":{c}": row for c, row in rows["per_class"].items()}
        for name, row in by_name.items():
            for measure in MEASURES:
                figure = row[measure]
                if figure is not None:
                    low, high = figure.get("interval") or ("", "")
                    yield space, arm, f"{measure}{name}", figure["mean"], low, high


def _rows(replicates: Sequence[ClassQuality]) -> QualityRows:
    class_ids = dict.fromkeys(class_id for each in replicates for class_id in each["per_class"])
    return {
        "overall": _row([each["overall"] for each in replicates]),
        "per_class": {
            class_id: _row(
                [
                    each["per_class"][class_id]
                    for each in replicates
                    if class_id in each["per_class"]
                ]
            )
            for class_id in class_ids
        },
    }


def _row(found: Sequence[ImageQuality]) -> QualityRow:
    return {
        "n_real": [each["n_real"] for each in found],
        "n_synthetic": [each["n_synthetic"] for each in found],
        "fid_comparable": all(each["fid_comparable"] for each in found),
        "notes": list(dict.fromkeys(each["note"] for each in found)),
        "fid": _figure(found, "fid"),
        "kid": _figure(found, "kid"),
        "cmmd": _figure(found, "cmmd"),
        "precision": _figure(found, "precision"),
        "recall": _figure(found, "recall"),
        "density": _figure(found, "density"),
        "coverage": _figure(found, "coverage"),
    }


def _figure(found: Sequence[ImageQuality], measure: Measure) -> QualityFigure | None:
    values = [value for each in found if (value := each[measure]) is not None]
    if not values:
        return None
    figure: QualityFigure = {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "num_draws": len(values),
    }
    name = _INTERVALS.get(measure)
    if name:
        intervals = [interval for each in found if (interval := each[name]) is not None]
        ends = [statistics.fmean(ends) for ends in zip(*intervals, strict=True)]
        figure["interval"] = ends or None
    return figure
