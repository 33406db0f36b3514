"""Charts as SVG text, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

_CELL_PX, _LEFT_PX, _TOP_PX, _BOTTOM_PX = 46, 146, 14, 104
_LONGEST_LABEL = 20


def svg_chart(
    name: str, width: int, height: int, parts: Iterable[str], css_class: str = "", style: str = ""
) -> str:
    """A chart of these parts.

    Args:
        name: Name for screen readers.
        width: Width of its coordinates.
        height: Height of its coordinates.
        parts: SVG elements.
        css_class: Class of the whole.
        style: Style of the whole.
    """
    attributes = f' class="{css_class}"' if css_class else ""
    attributes += f' viewBox="0 0 {width} {height}"'
    attributes += f' style="{style}"' if style else ""
    body = "".join(parts)
    return f'<svg{attributes} role="img" aria-label="{escape(name)}">{body}</svg>'


def titled(title: str, *shapes: str) -> str:
    """Shapes that show ``title`` under the pointer."""
    return f"<g><title>{escape(title)}</title>{''.join(shapes)}</g>"


def text(
    x: float, y: float, content: str, anchor: str = "", css_class: str = "", transform: str = ""
) -> str:
    """Text whose start, or the end named by ``anchor``, is at ``x``."""
    attributes = f' class="{css_class}"' if css_class else ""
    attributes += f' x="{_short(x)}" y="{_short(y)}"'
    attributes += f' text-anchor="{anchor}"' if anchor else ""
    attributes += f' transform="{transform}"' if transform else ""
    return f"<text{attributes}>{escape(content)}</text>"


def short_label(label: str) -> str:
    """A label cut to the room beside a chart."""
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def confusion_svg(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Sequence[Sequence[int]],
    label: Callable[[str], str],
    answered: str,
    scrolls: bool = False,
) -> str:
    """A confusion matrix; shade is the share of the row.

    Args:
        rows: True classes.
        columns: Classes that were given.
        counts: A row of counts for each true class.
        label: Display name of a class.
        answered: Verb of the tooltip, for example ``taken for``.
        scrolls: Whether the page lets a wide matrix scroll rather than shrink.
    """
    size, left, top = _CELL_PX, _LEFT_PX, _TOP_PX
    width, height = left + size * len(columns) + 8, top + size * len(rows) + _BOTTOM_PX
    parts = []
    for row, (class_id, values) in enumerate(zip(rows, counts, strict=True)):
        total, y = sum(values), top + row * size
        parts.append(text(left - 8, y + size / 2 + 4, short_label(label(class_id)), "end"))
        for column, count in enumerate(values):
            share, x = count / max(1, total), left + column * size
            tone = "hit" if columns[column] == class_id else "miss"
            opacity = 0.06 + 0.94 * share if count else 0.04
            title = f"{label(class_id)} {answered} {label(columns[column])}: {count} of {total}"
            parts.append(
                titled(
                    title,
                    f'<rect class="{tone}" x="{x + 1}" y="{y + 1}" width="{size - 2}" '
                    f'height="{size - 2}" rx="5" fill-opacity="{opacity:.3f}"/>',
                    text(
                        x + size / 2,
                        y + size / 2 + 4,
                        str(count) if count else "·",
                        "middle",
                        "count strong" if share > 0.55 else "count",
                    ),
                )
            )
    for column, class_id in enumerate(columns):
        middle, y = left + column * size + size / 2 + 4, top + size * len(rows) + 10
        turned = f"rotate(-45 {_short(middle)} {_short(y)})"
        parts.append(text(middle, y, short_label(label(class_id)), "end", transform=turned))
    style = f"min-width:{width * 0.7:.0f}px;max-width:{width * 1.15:.0f}px" if scrolls else ""
    return svg_chart("Confusion matrix", width, height, parts, "matrix", style)


def _short(number: float) -> str:
    """A coordinate without needless digits."""
    return f"{number:.1f}".removesuffix(".0")
