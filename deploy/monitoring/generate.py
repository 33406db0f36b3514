"""Writes the dashboards as JSON and the rules as a PrometheusRule.

python -m deploy.monitoring.generate
"""

from __future__ import annotations

from pathlib import Path

import yaml

from deploy.monitoring.boards import BOARDS
from deploy.monitoring.panels import dashboard_json

FOLDER = Path(__file__).resolve().parent
_RULES_HEADER = "# Generated from rules/ by deploy/monitoring/generate.py; edit those.\n"


def generated() -> dict[Path, str]:
    """Every generated file and what belongs into it."""
    files = {FOLDER / "grafana" / f"{board.name}.json": dashboard_json(board) for board in BOARDS}
    return {**files, FOLDER / "prometheus_rule.yaml": _prometheus_rule()}


def _prometheus_rule() -> str:
    groups = []
    for name in ("recording", "alerts"):
        groups += yaml.safe_load((FOLDER / "rules" / f"{name}.yaml").read_text())["groups"]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "cytosynth"},
        "spec": {"groups": groups},
    }
    return _RULES_HEADER + yaml.safe_dump(rule, sort_keys=False, width=100)


def main() -> None:
    """Writes them all."""
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
