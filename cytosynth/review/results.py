"""Results of a review: confusion, Cohen's κ, telling real from synthetic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cytosynth.client.errors import CytosynthError
from cytosynth.review.agreement import (
    auc,
    cohen_kappa,
    interval,
    resample,
    resampled_aucs,
    resampled_kappas,
    weighted_means,
)
from cytosynth.review.answers import CALLS, NO_CLASS, QUALITIES, Answer
from cytosynth.review.mix import ORIGINS, REAL, SYNTHETIC, Cell, Mix

NOTICE = "Research use only. Not a medical device."


@dataclass(frozen=True)
class Label:
    """One reviewer's last answer and the truth about its cell."""

    cell: Cell
    answer: Answer

    @property
    def grade(self) -> int:
        """0 surely real … 3 surely synthetic."""
        return CALLS.index(self.answer.call)

    @property
    def is_right(self) -> bool:
        """Whether the call, sure or not, names the origin."""
        return (self.grade >= len(CALLS) / 2) == (self.cell.origin == SYNTHETIC)


def labels_of(mix: Mix, latest: Mapping[str, Mapping[str, Answer]]) -> dict[str, list[Label]]:
    """Labels by reviewer, in the order of the mix.

    Raises:
        CytosynthError: There is no answer yet, or one is for a cell of another mix.
    """
    if not latest:
        raise CytosynthError(
            "FAILED_PRECONDITION",
            "no cell has been labelled yet",
            remedy="open the page of `cytosynth review` and label some",
        )
    known = {cell.id for cell in mix.cells}
    if any(set(answers) - known for answers in latest.values()):
        raise CytosynthError(
            "DATA_LOSS",
            "some answers are for cells of another mix",
            remedy="put the mix.json that belongs to answers.sqlite back",
        )
    return {
        reviewer: [Label(cell, answers[cell.id]) for cell in mix.cells if cell.id in answers]
        for reviewer, answers in latest.items()
    }


def review_results(mix: Mix, labels: Mapping[str, Sequence[Label]]) -> dict[str, Any]:
    """All figures as JSON without NaN; undefined ones are None.

    ``reviewers`` and ``overall`` hold the same figures. ``overall`` takes all answers together,
    and as AUC the mean of the reviewers' AUCs: their four grades need not mean the same.
    """
    reviewers = [
        {"reviewer": name, **_figures(mix, {name: found})} for name, found in labels.items()
    ]
    return {
        "notice": NOTICE,
        "mix": {
            "num_cells": len(mix.cells),
            "num_real": sum(cell.origin == REAL for cell in mix.cells),
            "num_synthetic": sum(cell.origin == SYNTHETIC for cell in mix.cells),
            "class_ids": list(mix.class_ids),
            "per_class": mix.options.per_class,
            "center_crop": mix.options.center_crop,
            "seed": mix.options.seed,
            "size_px": mix.size_px,
        },
        "reviewers": reviewers,
        "overall": _figures(mix, labels),
        "between_reviewers": [
            _between(left, labels[left], right, labels[right])
            for left, right in itertools.combinations(labels, 2)
        ],
    }


def _figures(mix: Mix, labels: Mapping[str, Sequence[Label]]) -> dict[str, Any]:
    """Figures of the answers of some reviewers, taken together."""
    answered = {label.cell.id for found in labels.values() for label in found}
    cells = [cell for cell in mix.cells if cell.id in answered]
    number = {cell.id: place for place, cell in enumerate(cells)}
    weights = resample(np.array([ORIGINS.index(cell.origin) for cell in cells]))

    def of_cells(found: Sequence[Label]) -> np.ndarray:
        return weights[:, [number[label.cell.id] for label in found]]

    together = [label for found in labels.values() for label in found]
    right = np.array([label.is_right for label in together], np.float64)
    areas, resampled = [], []
    for found in labels.values():
        synthetic = np.array([label.cell.origin == SYNTHETIC for label in found], np.bool_)
        grades = np.array([label.grade for label in found], np.int64)
        area = auc(synthetic, grades)
        if area is not None:
            areas.append(area)
            resampled.append(resampled_aucs(synthetic, grades, of_cells(found)))
    smallest = min(sum(cell.origin == origin for cell in cells) for origin in ORIGINS)
    return {
        "num_labelled": len(together),
        "num_cells": len(cells),
        "auc": float(np.mean(areas)) if areas else None,
        "auc_interval": interval(np.mean(resampled, axis=0), smallest) if areas else None,
        "call_accuracy": float(right.mean()),
        "call_accuracy_interval": interval(weighted_means(right, of_cells(together)), len(cells)),
        "by_origin": {
            origin: _of_origin(
                mix,
                [label for label in together if label.cell.origin == origin],
                weights,
                number,
            )
            for origin in ORIGINS
        },
    }


def _of_origin(
    mix: Mix, found: Sequence[Label], weights: np.ndarray, number: Mapping[str, int]
) -> dict[str, Any]:
    """Figures of the answers to real, or to synthetic cells."""
    asked = [label.cell.class_id for label in found]
    given = [label.answer.class_id for label in found]
    columns = [*mix.class_ids, NO_CLASS]
    table = np.zeros((len(mix.class_ids), len(columns)), np.int64)
    for row, column in zip(asked, given, strict=True):
        table[mix.class_ids.index(row), columns.index(column)] += 1
    figures: dict[str, Any] = {
        "num_labelled": len(found),
        "calls": {call: sum(label.answer.call == call for label in found) for call in CALLS},
        "qualities": {str(q): sum(label.answer.quality == q for label in found) for q in QUALITIES},
        "confusion": {
            "asked_class_ids": list(mix.class_ids),
            "given_class_ids": columns,
            "counts": table.tolist(),
        },
        "kappa": cohen_kappa(asked, given),
    }
    own = weights[:, [number[label.cell.id] for label in found]]
    num_cells = len({label.cell.id for label in found})
    kappas = resampled_kappas(asked, given, own) if figures["kappa"] is not None else np.zeros(0)
    figures["kappa_interval"] = interval(kappas, num_cells)
    for name, values in {
        "class_agreement": [a == g for a, g in zip(asked, given, strict=True)],
        "called_synthetic": [label.grade >= len(CALLS) / 2 for label in found],
        "quality": [label.answer.quality for label in found],
    }.items():
        array = np.array(values, np.float64)
        figures[name] = float(array.mean()) if array.size else None
        figures[f"{name}_interval"] = interval(weighted_means(array, own), num_cells)
    return figures


def _between(
    left: str, left_labels: Sequence[Label], right: str, right_labels: Sequence[Label]
) -> dict[str, Any]:
    """Cohen's κ of two reviewers over the cells that both have labelled."""
    theirs = {label.cell.id: label for label in right_labels}
    common = [(mine, theirs[mine.cell.id]) for mine in left_labels if mine.cell.id in theirs]

    def class_kappa(*origins: str) -> float | None:
        pairs = [
            (mine.answer.class_id, other.answer.class_id)
            for mine, other in common
            if mine.cell.origin in origins
        ]
        return cohen_kappa([a for a, _ in pairs], [b for _, b in pairs])

    def is_synthetic(label: Label) -> str:
        return SYNTHETIC if label.grade >= len(CALLS) / 2 else REAL

    return {
        "reviewers": [left, right],
        "num_common": len(common),
        "class_kappa": class_kappa(*ORIGINS),
        "class_kappa_real": class_kappa(REAL),
        "class_kappa_synthetic": class_kappa(SYNTHETIC),
        "call_kappa": cohen_kappa(
            [is_synthetic(mine) for mine, _ in common],
            [is_synthetic(other) for _, other in common],
        ),
    }
