"""Expressions of dashboards and alerts, and the series they read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
GPU_ONLY = "ray_node_gpus_"
"""Series that Ray exports on nodes with a GPU only."""


@dataclass(frozen=True)
class Expression:
    """A PromQL expression and where it stands."""

    place: str
    text: str

    @property
    def selectors(self) -> list[str]:
        """Instant vector selectors that the expression reads, each once."""
        return sorted({*_selectors(promql_parser.parse(self.text))})

    @property
    def needs_gpu(self) -> bool:
        """Whether a series of the expression needs a machine with a GPU."""
        return any(selector.startswith(GPU_ONLY) for selector in self.selectors)


def panel_expressions() -> list[Expression]:
    """Every query of every panel, from the dashboards as Grafana gets them."""
    return [
        Expression(f"{path.stem}: {panel['title']} ({target['refId']})", target["expr"])
        for path in sorted((FOLDER / "grafana").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file of ``rules/``."""
    groups = yaml.safe_load((FOLDER / "rules" / f"{name}.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alert_expressions() -> list[Expression]:
    """The condition of every alert."""
    return [Expression(f"alert {rule['alert']}", rule["expr"]) for rule in rules("alerts")]


def recording_expressions() -> list[Expression]:
    """What every recording rule computes."""
    return [
        Expression(
            f"rule {rule['record']} {rule.get('labels', {}).get('service', '')}".rstrip(),
            rule["expr"],
        )
        for rule in rules("recording")
    ]


def _selectors(expression: Any) -> Iterator[str]:
    if isinstance(expression, promql_parser.MatrixSelector):
        expression = expression.vector_selector
    if isinstance(expression, promql_parser.VectorSelector):
        yield str(expression)
        return
    for name in ("expr", "lhs", "rhs", "param"):
        part = getattr(expression, name, None)
        if part is not None:
            yield from _selectors(part)
    for argument in getattr(expression, "args", None) or ():
        yield from _selectors(argument)
