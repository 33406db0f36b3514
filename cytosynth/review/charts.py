"""Charts of the results page: confusion matrices, distributions of answers, cells."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from cytosynth.charts import confusion_svg, svg_chart, text, titled
from cytosynth.review.answers import NO_CLASS

_TILE_PX = 96


def class_label(class_id: str) -> str:
    """A class as people read it."""
    return "none of these" if class_id == NO_CLASS else class_id.replace("_", " ")


def answers_confusion_svg(
    rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]
) -> str:
    """A confusion matrix of a review, rows asked and columns given."""
    return confusion_svg(rows, columns, counts, class_label, "called", scrolls=True)


def answers_svg(kind: str, counts: Mapping[str, int]) -> str:
    """Shares of graded answers as one stacked bar.

    ``kind`` ("call" or "quality") selects the colours.
    """
    width, height = 520, 30
    total = max(1, sum(counts.values()))
    parts, x = [], 0.0
    for number, (name, count) in enumerate(counts.items()):
        if not count:
            continue
        share = count / total
        shapes = [
            f'<rect class="{kind}{number}" x="{x:.1f}" y="1" '
            f'width="{max(1.0, share * width - 2):.1f}" height="{height - 2}" rx="5"/>'
        ]
        if share >= 0.07:
            middle, percent = x + share * width / 2 - 1, f"{100 * share:.0f} %"
            css_class = f"on-{kind}{number}"
            shapes.append(text(middle, height / 2 + 4, percent, "middle", css_class))
        parts.append(titled(f"{name.replace('_', ' ')}: {count} of {total}", *shapes))
        x += share * width
    return svg_chart(_spoken(counts), width, height, parts, "stack")


def tile(png: bytes) -> str:
    """Data URI of a cell, at most 96 px wide and high."""
    with Image.open(io.BytesIO(png)) as image:
        image.thumbnail((_TILE_PX, _TILE_PX))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _spoken(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())
