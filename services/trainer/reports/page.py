"""The report as a page: cells, confusion matrices, recall, protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from cytosynth.cell_classes import class_phrase
from services.trainer.reports.charts import (
    arm_label,
    class_confusion_svg,
    model_label,
    recall_svg,
)

if TYPE_CHECKING:
    from services.trainer.reports.cells import CellSheets
    from services.trainer.reports.content import DatasetFacts, ReportContent

_TEMPLATES = Path(__file__).with_name("templates")


def page_environment() -> jinja2.Environment:
    """Template environment of all pages, with filters for figures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f}",
        "signed": lambda share: f"{100 * share:+.1f}".replace("-", "−"),
        "model": model_label,
        "arm": arm_label,
        "phrase": class_phrase,
        "duration": duration,
        "patients_unknown": patients_unknown,
    }
    return environment


def render_page(content: ReportContent, cells: CellSheets) -> str:
    """The page as one HTML file that fetches nothing."""
    template = page_environment().get_template("report.html.j2")
    arms = [figures for by_arm in content["arms"].values() for figures in by_arm.values()]
    return template.render(
        report=content,
        has_answers=any(figures["answers"] for figures in arms),
        cells=cells,
        confusion_svg=class_confusion_svg,
        recall_svg=recall_svg,
        arm_numbers=arm_numbers(content["arms"]),
    )


def arm_numbers(arms: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Number of each arm, from 0, for its colour in every figure."""
    names = dict.fromkeys(arm for by_arm in arms.values() for arm in by_arm)
    return {arm: number for number, arm in enumerate(names)}


def patients_unknown(dataset: DatasetFacts) -> str:
    """Caveat on a dataset with images without a patient; empty without."""
    unknown, num_images = dataset["num_without_patient"], dataset["num_images"]
    if not unknown:
        return ""
    which = "No image names its" if unknown == num_images else f"{unknown} of {num_images} name no"
    return (
        f"{which} patient, so nothing but their looks kept cells of one patient on one side "
        "of the split, and figures may lean upwards; name patients in the column patient_id of "
        "labels.csv"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
