"""Withheld near-duplicates, and the drift of predictions."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel
from deploy.monitoring.series import GENERATOR, PREDICTIONS

BOARD = Board(
    "privacy",
    "privacy & quality",
    "Near-duplicates withheld, and whether predictions still mean what they meant.",
    [
        Panel(
            "Withheld near-duplicates, share of the last hour",
            {"{{tenant}}": "tenant:cytosynth_withheld:ratio_rate1h"},
            "percentunit",
            limit=0.1,
            width=12,
        ),
        Panel(
            "Generated and withheld",
            {
                "{{tenant}} {{reason}}": "sum by (tenant, reason) "
                f"(rate({GENERATOR}withheld_images_total[5m]))"
            },
            "cps",
            "near_copy is generated again; not_finite fails the request.",
            width=12,
        ),
        Panel(
            "Images delivered, last hour",
            {"{{tenant}}": f"sum by (tenant) (increase({GENERATOR}images_total[1h]))"},
        ),
        Panel(
            "Drift of predictions",
            {"{{tenant}}": "tenant:cytosynth_predictions:drift"},
            "percentunit",
            limit=0.25,
        ),
        Panel(
            "Predicted classes, last hour",
            {"{{class_id}}": f"sum by (class_id) (increase({PREDICTIONS}[1h]))"},
            stacked=True,
        ),
    ],
)
