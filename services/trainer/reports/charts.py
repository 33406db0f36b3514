"""Charts of report pages, and what they call models and arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cytosynth.cell_classes import class_phrase
from cytosynth.charts import confusion_svg, short_label, svg_chart, text, titled

if TYPE_CHECKING:
    from services.trainer.evaluation.metrics import Breakdown

_MODEL_LABELS = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "clip": "CLIP + LoRA",
    "resnet": "ResNet",
}


def model_label(model: str) -> str:
    """Display name of a model."""
    return _MODEL_LABELS.get(model, model)


def arm_label(arm: str) -> str:
    """Display name of an arm: ``real_plus_synthetic`` is "real + synthetic"."""
    return arm.replace("_plus_", " + ").replace("_minus_", " − ").replace("_", " ")


def class_confusion_svg(class_ids: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix of a classifier."""
    return confusion_svg(class_ids, class_ids, counts, class_phrase, "taken for")


def recall_svg(
    class_ids: Sequence[str],
    by_arm: Mapping[str, Breakdown],
    arm_numbers: Mapping[str, int],
) -> str:
    """Bars of recall per class and arm, with 95 % intervals."""
    left, right, bar, gap, width = 146, 46, 13, 14, 520
    scale = width - left - right
    group = len(by_arm) * (bar + 2) + gap
    height = group * len(class_ids) + 26
    bottom = height - 22
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * scale
        parts.append(f'<line class="grid" x1="{x}" y1="4" x2="{x}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 15, f"{100 * tick:.0f} %", "middle", "tick"))
    for row, class_id in enumerate(class_ids):
        y = 6 + row * group
        middle = y + (group - gap) / 2 + 4
        parts.append(text(left - 8, middle, short_label(class_phrase(class_id)), "end"))
        for number, (arm, figures) in enumerate(by_arm.items()):
            recall = figures["per_class_recall"][class_id]
            low, high = figures["per_class_recall_intervals"][class_id]
            top = y + number * (bar + 2)
            mid = top + bar / 2
            parts.append(
                titled(
                    f"{class_id}, {arm_label(arm)}: {100 * recall:.1f} %",
                    f'<rect class="arm{arm_numbers[arm] % 6}" x="{left}" y="{top}" '
                    f'width="{max(1.0, recall * scale):.1f}" height="{bar}" rx="3"/>',
                    f'<line class="whisker" x1="{left + low * scale:.1f}" '
                    f'x2="{left + high * scale:.1f}" y1="{mid}" y2="{mid}"/>',
                    text(width - right + 10, mid + 4, f"{100 * recall:.0f}", "", "value"),
                )
            )
    return svg_chart("Recall per class", width, height, parts, "bars")
