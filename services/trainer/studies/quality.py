"""Image quality of a study: the measures of ``image_quality.py``, as means over draws."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MEASURES = ("fid", "kid", "cmmd", "precision", "recall", "density", "coverage")
SYNTHETIC = "synthetic"
REAL_AGAINST_REAL = "real_against_real"


def study_quality(
    draws: Sequence[Mapping[str, Any]], feature_space: Mapping[str, str]
) -> dict[str, Any]:
    """What ``report.json`` says of image quality.

    Args:
        draws: What ``quality_by_class`` gave for each draw, at least one.
        feature_space: What the space says of itself (``FeatureSpace.to_dict``).

    Returns:
        ``feature_space``, ``num_draws``, ``overall``, ``per_class`` (by class id) and
        ``real_against_real`` with ``overall`` and ``per_class``. Each row has ``n_real`` and
        ``n_synthetic`` (lists, by draw), ``fid_comparable`` (in every draw), ``notes`` (those of
        any draw) and for each measure ``mean`` and ``sd`` over the ``num_draws`` draws that have
        it (``sd`` None for one), or None; KID and CMMD also have ``interval``, the ends of the
        draws' own intervals averaged, or None.

    Raises:
        ValueError: If there are no draws.
    """
    if not draws:
        raise ValueError("image quality needs at least one draw")
    return {
        "feature_space": dict(feature_space),
        "num_draws": len(draws),
        **_rows(draws),
        REAL_AGAINST_REAL: _rows([draw[REAL_AGAINST_REAL] for draw in draws]),
    }


def quality_rows(quality: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of the CSV: feature space, arm, metric, value, low and high.

    The arm is ``synthetic`` or ``real_against_real``, the metric ``kid`` or ``kid:<class>``. Low
    and high are the interval of KID and CMMD, else empty; a value that no draw has is left out.
    """
    space = quality["feature_space"]["name"]
    for arm, rows in ((SYNTHETIC, quality), (REAL_AGAINST_REAL, quality[REAL_AGAINST_REAL])):
        by_name = {"": rows["overall"]} | {f":{c}": row for c, row in rows["per_class"].items()}
        for name, row in by_name.items():
            for measure in MEASURES:
                figure = row[measure]
                if figure is not None:
                    low, high = figure.get("interval") or ("", "")
                    yield space, arm, f"{measure}{name}", figure["mean"], low, high


def _rows(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    class_ids = dict.fromkeys(class_id for draw in draws for class_id in draw["per_class"])
    return {
        "overall": _row([draw["overall"] for draw in draws]),
        "per_class": {
            class_id: _row([d["per_class"][class_id] for d in draws if class_id in d["per_class"]])
            for class_id in class_ids
        },
    }


def _row(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "n_real": [each["n_real"] for each in found],
        "n_synthetic": [each["n_synthetic"] for each in found],
        "fid_comparable": all(each["fid_comparable"] for each in found),
        "notes": list(dict.fromkeys(each["note"] for each in found)),
        **{measure: _figure(found, measure) for measure in MEASURES},
    }


def _figure(found: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Any] | None:
    values = [each[measure] for each in found if each[measure] is not None]
    if not values:
        return None
    figure: dict[str, Any] = {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "num_draws": len(values),
    }
    name = f"{measure}_interval"
    if name in found[0]:
        intervals = [each[name] for each in found if each[name] is not None]
        ends = [statistics.fmean(ends) for ends in zip(*intervals, strict=True)]
        figure["interval"] = ends or None
    return figure
