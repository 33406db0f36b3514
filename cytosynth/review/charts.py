"""Drawings of the results page: confusion matrices, distributions of answers, rows of cells."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from cytosynth.review.answers import NO_CLASS

_TILE_PX = 96


def class_label(class_id: str) -> str:
    """A class as people read it."""
    return "none of these" if class_id == NO_CLASS else class_id.replace("_", " ")


def confusion_svg(rows: Sequence[str], columns: Sequence[str], counts: list[list[int]]) -> str:
    """A confusion matrix, rows asked and columns given; shade is the share of the row."""
    cell, left, top = 46, 128, 14
    width, height = left + cell * len(columns) + 8, top + cell * len(rows) + 104
    parts = [
        f'<svg class="matrix" viewBox="0 0 {width} {height}" '
        f'style="min-width:{width * 0.7:.0f}px;max-width:{width * 1.15:.0f}px"'
        ' role="img" aria-label="Confusion matrix">'
    ]
    for row, (class_id, values) in enumerate(zip(rows, counts, strict=True)):
        y = top + row * cell
        parts.append(
            f'<text x="{left - 8}" y="{y + cell / 2 + 4}" text-anchor="end">'
            f"{_short(class_id)}</text>"
        )
        for column, count in enumerate(values):
            share = count / max(1, sum(values))
            x = left + column * cell
            tone = "hit" if columns[column] == class_id else "miss"
            strong = " strong" if share > 0.55 else ""
            title = f"{class_label(class_id)} called {class_label(columns[column])}: {count}"
            parts.append(
                f'<g><title>{escape(title)}</title><rect class="{tone}" x="{x + 1}" y="{y + 1}" '
                f'width="{cell - 2}" height="{cell - 2}" rx="5" '
                f'fill-opacity="{0.06 + 0.94 * share if count else 0.04:.3f}"/>'
                f'<text class="count{strong}" x="{x + cell / 2}" y="{y + cell / 2 + 4}" '
                f'text-anchor="middle">{count or "·"}</text></g>'
            )
    for column, class_id in enumerate(columns):
        middle, y = left + column * cell + cell / 2 + 4, top + cell * len(rows) + 10
        parts.append(
            f'<text x="{middle}" y="{y}" text-anchor="end" transform="rotate(-45 {middle} {y})">'
            f"{_short(class_id)}</text>"
        )
    return "".join([*parts, "</svg>"])


def answers_svg(kind: str, counts: Mapping[str, int]) -> str:
    """Shares of graded answers as one stacked bar; ``kind`` ("call", "quality") gives colours."""
    width, height = 520, 30
    total = max(1, sum(counts.values()))
    parts = [
        f'<svg class="stack" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(_spoken(counts))}">'
    ]
    x = 0.0
    for number, (name, count) in enumerate(counts.items()):
        if not count:
            continue
        share = count / total
        title = f"{name.replace('_', ' ')}: {count} of {total}"
        parts.append(
            f'<g><title>{escape(title)}</title><rect class="{kind}{number}" x="{x:.1f}" y="1" '
            f'width="{max(1.0, share * width - 2):.1f}" height="{height - 2}" rx="5"/>'
        )
        if share >= 0.07:
            parts.append(
                f'<text class="on-{kind}{number}" x="{x + share * width / 2 - 1:.1f}" '
                f'y="{height / 2 + 4}" text-anchor="middle">{100 * share:.0f} %</text>'
            )
        parts.append("</g>")
        x += share * width
    return "".join([*parts, "</svg>"])


def tile(png: bytes) -> str:
    """A cell, at most 96 pixels a side, as a data URI."""
    with Image.open(io.BytesIO(png)) as image:
        image.thumbnail((_TILE_PX, _TILE_PX))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _spoken(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())


def _short(class_id: str) -> str:
    label = class_label(class_id)
    return escape(label if len(label) <= 19 else label[:18] + "…")
