"""Short descriptions of panels, and the Grafana dashboards made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

COLUMNS = 24
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Panel:
    """A graph over time, or one large number."""

    title: str
    expressions: dict[str, str]
    """Legend (``{{label}}`` is filled in) to PromQL expression."""
    unit: str = "short"
    """Grafana's name of the unit."""
    description: str = ""
    width: int = 8
    height: int = 7
    stat: bool = False
    """The last value as a number instead of a graph."""
    stacked: bool = False
    limit: float | None = None
    """Above it, bad."""


@dataclass(frozen=True)
class Board:
    """A dashboard: panels in rows, left to right, as they fit."""

    name: str
    title: str
    description: str
    panels: list[Panel] = field(default_factory=list)


def dashboard_json(board: Board) -> str:
    """The dashboard as Grafana reads it."""
    builder = (
        dashboard.Dashboard(f"Cytosynth · {board.title}")
        .uid(f"cytosynth-{board.name}")
        .description(board.description)
        .tags(["cytosynth"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
    )
    x = y = row_height = 0
    for panel in board.panels:
        if x + panel.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        place = models.GridPos(x=x, y=y, w=panel.width, h=panel.height)
        builder.with_panel(_built(panel).grid_pos(place))
        x, row_height = x + panel.width, max(row_height, panel.height)
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _built(panel: Panel) -> Any:
    built: Any = _number() if panel.stat else _graph(panel)
    built.title(panel.title).unit(panel.unit).datasource(DATASOURCE)
    if panel.description:
        built.description(panel.description)
    if panel.limit is not None:
        built.thresholds(
            dashboard.ThresholdsConfig()
            .mode(models.ThresholdsMode.ABSOLUTE)
            .steps(
                [
                    models.Threshold(value=None, color="green"),
                    models.Threshold(value=panel.limit, color="red"),
                ]
            )
        )
    for number, (legend, expression) in enumerate(panel.expressions.items()):
        query = prometheus.Dataquery().expr(expression).legend_format(legend)
        built.with_target(query.ref_id(chr(ord("A") + number)))
    return built


def _number() -> Any:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().reduce_options(last).graph_mode(common_models.BigValueGraphMode.AREA)


def _graph(panel: Panel) -> Any:
    graph = (
        timeseries.Panel()
        .line_width(2)
        .fill_opacity(30 if panel.stacked else 8)
        .min(0)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if panel.stacked:
        graph.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if panel.limit is not None:
        graph.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
        )
    return graph
