"""Writes review results: ``review.json``, ``review.csv`` and a self-contained page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from cytosynth.client.atomic_files import write_whole
from cytosynth.review.answers import CALLS, QUALITIES, Answers
from cytosynth.review.charts import answers_confusion_svg, answers_svg, class_label, tile
from cytosynth.review.mix import ORIGINS, REAL, SYNTHETIC, Mix, read_mix, shown_cells
from cytosynth.review.results import Label, labels_of, review_results

_TEMPLATES = Path(__file__).with_name("templates")
_TILES = 8


@dataclass(frozen=True)
class ReviewReport:
    """What a review found, and where it was written.

    Attributes:
        results: As in review.json.
        section: The results as HTML, to be put into another page.
        json_path, csv_path, html_path: In the review's folder.
    """

    results: Mapping[str, Any]
    section: str
    json_path: Path
    csv_path: Path
    html_path: Path


def write_review(out: Path) -> ReviewReport:
    """Compute results from the last answers and write them to ``out``.

    Raises:
        CytosynthError: There is no review or no answer in ``out``, or it is damaged.
    """
    mix = read_mix(out)
    shown = shown_cells(mix, out)
    with closing(Answers(out)) as answers:
        labels = labels_of(mix, answers.latest())
    results = review_results(mix, labels)
    report = ReviewReport(
        results=results,
        section=_render("section.html.j2", results, labels, shown),
        json_path=out / "review.json",
        csv_path=out / "review.csv",
        html_path=out / "review.html",
    )
    write_whole(report.json_path, as_json(results))
    write_whole(report.csv_path, _csv(mix, labels).encode())
    write_whole(report.html_path, _render("results.html.j2", results, labels, shown).encode())
    return report


def as_json(content: object) -> bytes:
    """JSON as reports write it; there is no NaN in it."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _csv(mix: Mix, labels: Mapping[str, Sequence[Label]]) -> str:
    """CSV with one row per reviewer and cell.

    The cells are in the order in which the reviewer saw them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("reviewer", "position", "cell", "origin", "asked_class", "file", "call", "given_class",
         "quality", "answered_at", "num_given")
    )  # fmt: skip
    for reviewer, found in labels.items():
        place = {cell: number for number, cell in enumerate(mix.order(reviewer), 1)}
        for label in sorted(found, key=lambda label: place[label.cell.id]):
            cell, answer = label.cell, label.answer
            writer.writerow(
                (reviewer, place[cell.id], cell.id, cell.origin, cell.class_id, cell.file_name,
                 answer.call, answer.class_id, answer.quality, answer.answered_at,
                 answer.num_given)
            )  # fmt: skip
    return text.getvalue()


def _render(
    template: str,
    results: Mapping[str, Any],
    labels: Mapping[str, Sequence[Label]],
    shown: Mapping[str, bytes],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"words": lambda name: name.replace("_", " "), "class": class_label}
    return environment.get_template(template).render(
        review=results,
        calls=CALLS,
        qualities=QUALITIES,
        origins=ORIGINS,
        rows=_rows(labels, shown),
        standalone=template == "results.html.j2",
        answers_svg=answers_svg,
        confusion_svg=answers_confusion_svg,
    )


def _rows(labels: Mapping[str, Sequence[Label]], shown: Mapping[str, bytes]) -> list[Any]:
    """Rows of cells for the page, with titles.

    A cell has a data URI, the class asked for, and the classes that reviewers gave.
    """
    by_cell: dict[str, list[Label]] = {}
    for found in labels.values():
        for label in found:
            by_cell.setdefault(label.cell.id, []).append(label)

    def grade(found: list[Label]) -> float:
        return sum(label.grade for label in found) / len(found)

    middle = (len(CALLS) - 1) / 2
    rows = []
    for title, origin, sign in (
        ("Synthetic cells that passed for real", SYNTHETIC, 1),
        ("Synthetic cells that were found out", SYNTHETIC, -1),
        ("Real cells that were taken for synthetic", REAL, -1),
    ):
        of_origin = [found for found in by_cell.values() if found[0].cell.origin == origin]
        chosen = [found for found in of_origin if sign * (middle - grade(found)) > 0]
        chosen.sort(key=lambda found: (sign * grade(found), found[0].cell.file_name))
        cells = [
            {
                "src": tile(shown[found[0].cell.id]),
                "asked": class_label(found[0].cell.class_id),
                "given": sorted({class_label(label.answer.class_id) for label in found}),
            }
            for found in chosen[:_TILES]
        ]
        rows.append({"title": title, "count": len(chosen), "of": len(of_origin), "cells": cells})
    return rows
