"""A study as a page: headline, sweep, all arms, protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cytosynth.charts import svg_chart, text, titled
from services.trainer.evaluation.triplets import ShownTriplet
from services.trainer.reports.charts import arm_label, class_confusion_svg, recall_svg
from services.trainer.reports.page import arm_numbers, page_environment
from services.trainer.studies.recipe import REAL_ONLY, SWEPT_ARMS
from services.trainer.studies.results import ArmFigures, StudyContent

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 300, 46, 14, 12, 32


def render_study(content: StudyContent, gallery: Sequence[ShownTriplet]) -> str:
    """The page as one HTML file that fetches nothing.

    Args:
        content: As ``report.json`` has it.
        gallery: Synthetic images beside the nearest real ones.
    """
    return (
        page_environment()
        .get_template("study.html.j2")
        .render(
            report=content,
            sweep_svg=sweep_svg,
            recall_svg=recall_svg,
            confusion_svg=class_confusion_svg,
            shown_arms=shown_arms,
            arm_numbers=arm_numbers(content["arms"]),
            gallery=gallery,
            show_images=not content["settings"]["hide_images"],
        )
    )


def shown_arms(by_arm: Mapping[str, ArmFigures], headline: str) -> dict[str, ArmFigures]:
    """The two arms that the page shows in detail."""
    return {arm: by_arm[arm] for arm in (REAL_ONLY, headline) if arm in by_arm}


def sweep_svg(by_arm: Mapping[str, ArmFigures], settings: Mapping[str, Any]) -> str:
    """Macro-F1 against images per class, a line per arm, with a legend."""
    counts = list(settings["num_per_class"])
    lines = {
        arm: [(n, by_arm[f"{arm}_{n}"]) for n in counts if f"{arm}_{n}" in by_arm]
        for arm in SWEPT_ARMS
    }
    lines = {arm: points for arm, points in lines.items() if points}
    baseline = by_arm[REAL_ONLY]
    low, high = baseline["intervals"]["macro_f1"]
    ends = [low, high]
    for points in lines.values():
        ends += [end for _, figures in points for end in figures["intervals"]["macro_f1"]]
    bottom, top = math.floor(20 * min(ends)) / 20, math.ceil(20 * max(ends)) / 20

    def at_y(share: float) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        return _TOP + height * (top - share) / max(top - bottom, 1e-9)

    def at_x(count: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (counts.index(count) + 0.5) / len(counts)

    parts = []
    for number in range(round(20 * bottom), round(20 * top) + 1):
        y = at_y(number / 20)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}"/>')
        parts.append(text(_LEFT - 8, y + 4, f"{5 * number} %", "end", "tick"))
    parts.append(
        f'<rect class="arm0" fill-opacity="0.25" x="{_LEFT}" y="{at_y(high):.1f}" '
        f'width="{_WIDTH - _LEFT}" height="{at_y(low) - at_y(high):.1f}"/>'
        f'<line class="whisker" x1="{_LEFT}" x2="{_WIDTH}" y1="{at_y(baseline["macro_f1"]):.1f}" '
        f'y2="{at_y(baseline["macro_f1"]):.1f}" stroke-dasharray="5 4"/>'
    )
    for count in counts:
        parts.append(text(at_x(count), _HEIGHT - 10, str(count), "middle", "tick"))
    for number, (arm, points) in enumerate(lines.items(), 1):
        # Beside one another, so that arms of equal figures can be told apart.
        shift = 7 * (number - (len(lines) + 1) / 2)
        path = " ".join(f"{at_x(n) + shift:.1f},{at_y(f['macro_f1']):.1f}" for n, f in points)
        color = f"var(--arm{number})"
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for count, figures in points:
            x, (end, start) = at_x(count) + shift, figures["intervals"]["macro_f1"]
            parts.append(
                titled(
                    f"{arm_label(arm)}, {count}: {100 * figures['macro_f1']:.1f} %",
                    f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(start):.1f}" y2="{at_y(end):.1f}" '
                    f'stroke="{color}" stroke-width="2"/>',
                    f'<circle cx="{x:.1f}" cy="{at_y(figures["macro_f1"]):.1f}" r="4" '
                    f'fill="{color}"/>',
                )
            )
    legend = "".join(
        f'<span><span class="dot arm{number}"></span>{arm_label(arm)}</span>'
        for number, arm in enumerate(lines, 1)
    )
    chart = svg_chart("Macro-F1 against synthetic images per class", _WIDTH, _HEIGHT, parts)
    return f'<div class="legend">{legend}</div>{chart}'
