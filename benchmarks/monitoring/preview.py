"""Plots dashboards from Prometheus' data, in Grafana's layout."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as dates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.monitoring.servers import Prometheus

BACKGROUND, CARD, TEXT, FAINT, GRID = "#111217", "#181b1f", "#d8d9da", "#8e8e95", "#2b2e36"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0")
_UNIT_PIXELS = (0.62, 0.34)
"""Inches of one unit of Grafana's grid: width, height."""


def plot(board: Path, prometheus: Prometheus, start: float, end: float, out: Path) -> None:
    """One dashboard's JSON to one PNG; seconds since 1970 bound its time."""
    content = json.loads(board.read_text())
    panels = content["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 24 * _UNIT_PIXELS[0], (rows + 1.6) * _UNIT_PIXELS[1]
    figure = plt.figure(figsize=(width, height), facecolor=BACKGROUND)
    title = {"color": TEXT, "fontsize": 15, "fontweight": "bold", "va": "top"}
    figure.text(0.008, 1 - 0.12 / height, content["title"], **title)
    faint = {"color": FAINT, "fontsize": 9, "va": "top", "ha": "right"}
    figure.text(0.992, 1 - 0.18 / height, content["description"], **faint)
    for panel in panels:
        place = panel["gridPos"]
        left, right = place["x"] / 24, (place["x"] + place["w"]) / 24
        top = 1 - (place["y"] + 1.6) / (rows + 1.6)
        bottom = 1 - (place["y"] + place["h"] + 1.6) / (rows + 1.6)
        gap_x, gap_y = 0.06 / width, 0.06 / height
        box = (left + gap_x, bottom + gap_y, right - left - 2 * gap_x, top - bottom - 2 * gap_y)
        card = figure.add_axes(box, facecolor=CARD, xticks=[], yticks=[])
        for spine in card.spines.values():
            spine.set_color(GRID)
        figure.text(
            box[0] + 0.1 / width,
            box[1] + box[3] - 0.08 / height,
            panel["title"],
            color=TEXT,
            fontsize=10,
            va="top",
        )
        series = _series(panel, prometheus, start, end)
        if not series:
            card.text(0.5, 0.45, "No data", color=FAINT, ha="center", va="center", fontsize=11)
        elif panel["type"] == "stat":
            _number(card, panel, series)
        else:
            inner = (
                box[0] + 0.62 / width,
                box[1] + 0.62 / height,
                box[2] - 0.78 / width,
                box[3] - 1.0 / height,
            )
            _graph(figure.add_axes(inner, facecolor=CARD), panel, series, start, end)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=75, facecolor=BACKGROUND)
    plt.close(figure)


Series = tuple[str, list[datetime], list[float]]


def _series(
    panel: dict[str, Any], prometheus: Prometheus, start: float, end: float
) -> list[Series]:
    found = []
    for target in panel["targets"]:
        for one in prometheus.query_range(target["expr"], start, end):
            legend = re.sub(
                r"{{(\w+)}}",
                lambda match, labels=one["metric"]: labels.get(match[1], ""),
                target["legendFormat"],
            ).strip()
            times = [datetime.fromtimestamp(float(time), UTC) for time, _ in one["values"]]
            found.append((legend, times, [float(value) for _, value in one["values"]]))
    return sorted(found, key=lambda one: one[0])


def _number(card: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    value = next((v for v in reversed(series[0][2]) if math.isfinite(v)), math.nan)
    limit = _limit(panel)
    colour = COLOURS[4] if limit is not None and value > limit else COLOURS[0]
    text = with_unit(value, _unit(panel))
    card.text(0.5, 0.42, text, color=colour, fontsize=25, ha="center", va="center")
    values = [v for v in series[0][2] if math.isfinite(v)]
    if len(values) > 1:
        low = card.inset_axes((0.0, 0.0, 1.0, 0.22))
        low.fill_between(range(len(values)), values, color=colour, alpha=0.25, linewidth=0)
        low.set_ylim(0, max([*values, 1e-9]) * 1.1)
        low.set_xlim(0, len(values) - 1)
        low.axis("off")


def _graph(
    axes: Axes, panel: dict[str, Any], series: list[Series], start: float, end: float
) -> None:
    custom = panel["fieldConfig"]["defaults"].get("custom") or {}
    stacked = (custom.get("stacking") or {}).get("mode") == "normal"
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(series))]
    if stacked:
        times = sorted({time for _, ones, _ in series for time in ones})
        layers = [
            [dict(zip(ones, values, strict=True)).get(time, 0.0) for time in times]
            for _, ones, values in series
        ]
        labels = [legend for legend, _, _ in series]
        axes.stackplot(times, layers, colors=colours, alpha=0.75, labels=labels, linewidth=0)
    else:
        for colour, (legend, times, values) in zip(colours, series, strict=True):
            marker = "o" if len(times) < 3 else None
            axes.plot(times, values, color=colour, label=legend, linewidth=1.6, marker=marker)
            axes.fill_between(times, values, color=colour, alpha=0.08, linewidth=0)
    limit = _limit(panel)
    high = axes.get_ylim()[1]
    axes.set_ylim(0, high if high > 1e-9 else 1)
    if limit is not None and limit <= 4 * axes.get_ylim()[1]:
        axes.axhline(limit, color=COLOURS[4], linewidth=1, linestyle=(0, (5, 4)))
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.15 * limit))
    axes.set_xlim(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, _unit(panel))))
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    width = axes.get_position().width * axes.figure.get_figwidth()
    if any(legend for legend, _, _ in series):
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.45 / width, -0.12),
            ncols=_legend_columns(width, [legend for legend, _, _ in series]),
            fontsize=7.5,
            labelcolor=TEXT,
            frameon=False,
            handlelength=1.0,
            columnspacing=1.0,
            borderpad=0.1,
        )


def _legend_columns(width: float, legends: list[str]) -> int:
    """Columns that fit beside each other, at 0.075 inches a letter."""
    return max(1, min(len(legends), int(width / (0.35 + 0.075 * max(map(len, legends))))))


def _unit(panel: dict[str, Any]) -> str:
    return panel["fieldConfig"]["defaults"].get("unit", "short")


def _limit(panel: dict[str, Any]) -> float | None:
    thresholds = panel["fieldConfig"]["defaults"].get("thresholds") or {}
    values = [one["value"] for one in thresholds.get("steps", []) if one.get("value") is not None]
    return values[-1] if values else None


def with_unit(value: float, unit: str) -> str:
    """A value as Grafana writes it in one of its units."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "percent":
        return f"{value:.3g} %"
    if unit == "d":
        return f"{value:.0f} d"
    if unit == "s":
        for seconds, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if abs(value) >= seconds:
                return f"{value / seconds:.3g} {name}"
        return f"{1000 * value:.3g} ms" if value else "0 s"
    if unit in ("bytes", "Bps"):
        suffix = "/s" if unit == "Bps" else ""
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}{suffix}"
        return f"{value:.3g} B{suffix}"
    suffix = {"reqps": " req/s", "cps": "/s"}.get(unit, "")
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}{suffix}"
    return f"{value:.3g}{suffix}"
