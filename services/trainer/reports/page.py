"""The report as a page: cells side by side, confusion matrices, recall bars, the protocol."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from cytosynth.cell_classes import class_phrase
from services.common.images.codec import center_square, decode_image, encode_image
from services.common.images.near_duplicates import (
    METHOD,
    NEAR_DUPLICATE_BITS,
    is_near_duplicate,
    training_hashes,
)
from services.common.resource_names import IMAGE_SETS
from services.trainer.classifiers.image_sets import read_image_set
from services.trainer.datasets.reading import load_images

if TYPE_CHECKING:
    from services.trainer.jobs.context import JobContext

_TEMPLATES = Path(__file__).with_name("templates")
_TILE_PX = 72
_TILES_PER_ROW = 4
_TILES = 8
MODEL_LABELS = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "clip": "CLIP + LoRA",
    "resnet": "ResNet",
}


@dataclass(frozen=True)
class Cells:
    """What the page shows of the images.

    Attributes:
        real, synthetic: A PNG sheet (data URI) by class id.
        num_synthetic: Synthetic images in all image sets.
        near_duplicates: How many synthetic images are near-duplicates of training images.
    """

    real: dict[str, str] = field(default_factory=dict)
    synthetic: dict[str, str] = field(default_factory=dict)
    num_synthetic: int = 0
    near_duplicates: dict[str, Any] = field(default_factory=dict)


def sample_cells(
    dataset_id: str, image_set_ids: list[str], max_searched_per_class: int, ctx: JobContext
) -> Cells:
    """Sheets of training and of synthetic cells, and a count of near-duplicates among the latter.

    The first images are shown, not the best.
    """
    real = load_images(ctx.store, ctx.tenant, dataset_id, "train", _TILE_PX, ctx.settings)
    class_ids = sorted(set(real.class_ids))
    sheets = {
        c: sheet([a for a, k in zip(real.images, real.class_ids, strict=True) if k == c][:_TILES])
        for c in class_ids
    }
    num_synthetic, num_searched, num_copies = 0, 0, 0
    synthetic: dict[str, str] = {}
    known = training_hashes(real.images) if image_set_ids else np.zeros(0, np.uint64)
    for image_set_id in image_set_ids:
        manifest = ctx.store.get_manifest(ctx.tenant, IMAGE_SETS, image_set_id)
        num_synthetic += manifest["body"]["num_images"]
        found = read_image_set(ctx.store, ctx.tenant, image_set_id, max_searched_per_class)
        for class_id, files in sorted(found.items()):
            arrays = []
            for number, data in enumerate(files):
                ctx.progress("drawing cells", num_searched, 0, {})
                array = center_square(decode_image(data, f"image {number}"), 1.0, _TILE_PX)
                arrays.append(array)
                num_searched += 1
                num_copies += is_near_duplicate(array, known)
            synthetic.setdefault(class_id, sheet(arrays[:_TILES]))
    near_duplicates = {
        "num_near_copies": num_copies,
        "num_searched": num_searched,
        "max_bits": NEAR_DUPLICATE_BITS,
        "method": METHOD,
    }
    return Cells(sheets, synthetic, num_synthetic, near_duplicates if image_set_ids else {})


def sheet(arrays: list[np.ndarray]) -> str:
    """A PNG of tiles in rows of four, as a data URI; empty without tiles."""
    if not arrays:
        return ""
    gap = 3
    rows = -(-len(arrays) // _TILES_PER_ROW)
    columns = min(len(arrays), _TILES_PER_ROW)
    shape = (rows * (_TILE_PX + gap) - gap, columns * (_TILE_PX + gap) - gap, 3)
    canvas = np.full(shape, 255, np.uint8)
    for number, array in enumerate(arrays):
        y, x = ((_TILE_PX + gap) * part for part in divmod(number, _TILES_PER_ROW))
        canvas[y : y + _TILE_PX, x : x + _TILE_PX] = array
    return "data:image/png;base64," + base64.b64encode(encode_image(canvas)).decode()


def page_environment() -> jinja2.Environment:
    """What all pages are written with: templates and the words for figures."""
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


def render_page(content: Mapping[str, Any], cells: Cells) -> str:
    """The page as one HTML file that fetches nothing."""
    template = page_environment().get_template("report.html.j2")
    return template.render(
        report=content,
        cells=cells,
        confusion_svg=confusion_svg,
        recall_svg=recall_svg,
        arm_numbers=arm_numbers(content),
    )


def arm_numbers(content: Mapping[str, Any]) -> dict[str, int]:
    """A number per arm, from 0, the same in every figure, for its colour."""
    names = dict.fromkeys(arm for by_arm in content["arms"].values() for arm in by_arm)
    return {arm: number for number, arm in enumerate(names)}


def model_label(model: str) -> str:
    """How a model is called on the page."""
    return MODEL_LABELS.get(model, model)


def arm_label(arm: str) -> str:
    """How an arm is called on the page: ``real_plus_synthetic`` is "real + synthetic"."""
    return arm.replace("_plus_", " + ").replace("_minus_", " − ").replace("_", " ")


def patients_unknown(dataset: Mapping[str, Any]) -> str:
    """What must be said of a dataset some of whose images name no patient; empty if none does."""
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


def confusion_svg(class_ids: list[str], counts: list[list[int]]) -> str:
    """A confusion matrix; shade is the share of the row (the true class)."""
    cell, left, top = 46, 146, 14
    side = cell * len(class_ids)
    width, height = left + side + 8, top + side + 104
    parts = [
        f'<svg class="matrix" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Confusion matrix">'
    ]
    for row, (class_id, values) in enumerate(zip(class_ids, counts, strict=True)):
        total = max(1, sum(values))
        y = top + row * cell
        parts.append(
            f'<text x="{left - 8}" y="{y + cell / 2 + 4}" text-anchor="end">'
            f"{escape(_short(class_id))}</text>"
        )
        for column, count in enumerate(values):
            share = count / total
            x = left + column * cell
            tone = "hit" if row == column else "miss"
            dark = " strong" if share > 0.55 else ""
            title = f"{class_id} taken for {class_ids[column]}: {count} of {sum(values)}"
            parts.append(
                f'<g><title>{escape(title)}</title><rect class="{tone}" x="{x + 1}" y="{y + 1}" '
                f'width="{cell - 2}" height="{cell - 2}" rx="5" '
                f'fill-opacity="{0.06 + 0.94 * share if count else 0.04:.3f}"/>'
                f'<text class="count{dark}" x="{x + cell / 2}" y="{y + cell / 2 + 4}" '
                f'text-anchor="middle">{count or "·"}</text></g>'
            )
    for column, class_id in enumerate(class_ids):
        middle, y = left + column * cell + cell / 2 + 4, top + side + 10
        parts.append(
            f'<text x="{middle}" y="{y}" text-anchor="end" transform="rotate(-45 {middle} {y})">'
            f"{escape(_short(class_id))}</text>"
        )
    parts.append("</svg>")
    return "".join(parts)


def recall_svg(
    class_ids: list[str], by_arm: Mapping[str, Mapping[str, Any]], arm_numbers: Mapping[str, int]
) -> str:
    """Recall of each class, a bar per arm with its 95 % interval."""
    left, right, bar, gap = 146, 46, 13, 14
    width = 520
    scale = width - left - right
    group = len(by_arm) * (bar + 2) + gap
    height = group * len(class_ids) + 26
    bottom = height - 22
    parts = [f'<svg class="bars" viewBox="0 0 {width} {height}" role="img" '
             f'aria-label="Recall per class">']  # fmt: skip
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * scale
        parts.append(f'<line class="grid" x1="{x}" y1="4" x2="{x}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{bottom + 15}" text-anchor="middle">'
            f"{100 * tick:.0f} %</text>"
        )
    for row, class_id in enumerate(class_ids):
        y = 6 + row * group
        middle = y + (group - gap) / 2 + 4
        parts.append(
            f'<text x="{left - 8}" y="{middle}" text-anchor="end">{escape(_short(class_id))}</text>'
        )
        for number, (arm, figures) in enumerate(by_arm.items()):
            recall = figures["per_class_recall"][class_id]
            low, high = figures["per_class_recall_intervals"][class_id]
            top = y + number * (bar + 2)
            mid = top + bar / 2
            title = f"{class_id}, {arm_label(arm)}: {100 * recall:.1f} %"
            parts.append(
                f"<g><title>{escape(title)}</title>"
                f'<rect class="arm{arm_numbers[arm] % 6}" x="{left}" y="{top}" '
                f'width="{max(1.0, recall * scale):.1f}" height="{bar}" rx="3"/>'
                f'<line class="whisker" x1="{left + low * scale:.1f}" '
                f'x2="{left + high * scale:.1f}" y1="{mid}" y2="{mid}"/>'
                f'<text class="value" x="{width - right + 10}" y="{mid + 4}">'
                f"{100 * recall:.0f}</text></g>"
            )
    parts.append("</svg>")
    return "".join(parts)


def _short(class_id: str) -> str:
    phrase = class_phrase(class_id)
    return phrase if len(phrase) <= 20 else phrase[:19] + "…"
