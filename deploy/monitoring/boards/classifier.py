"""The classifier's calls, predictions and drift."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel
from deploy.monitoring.series import CALL_SECONDS, CALLS, CLASSIFIER, IN_PROGRESS, quantiles

BOARD = Board(
    "classifier",
    "classifier",
    "What is classified, how fast, and as what.",
    [
        Panel(
            "Images",
            {"{{architecture}}": f"sum by (architecture) (rate({CLASSIFIER}images_total[5m]))"},
            "cps",
        ),
        Panel(
            "Calls by answer",
            {
                "{{method}} {{code}}": "sum by (method, code) "
                f'(rate({CALLS}{{application="classifier"}}[5m]))'
            },
            "reqps",
        ),
        Panel("Classify", quantiles(CALL_SECONDS, '{method="Classify"}'), "s", limit=2),
        Panel(
            "Predicted classes, share of the last hour",
            {"{{class_id}}": "avg by (class_id) (tenant_class:cytosynth_predictions:share1h)"},
            "percentunit",
            width=16,
            stacked=True,
        ),
        Panel(
            "Drift from the week's mix",
            {"{{tenant}}": "tenant:cytosynth_predictions:drift"},
            "percentunit",
            "Total variation distance: 0 the same, 1 nothing in common.",
            limit=0.25,
        ),
        Panel(
            "Calls in progress",
            {"now": f'sum({IN_PROGRESS}{{application="classifier"}})'},
            description="Running, or waiting for a slot.",
        ),
        Panel("Wait for a batch", quantiles(f"{CLASSIFIER}queue_wait_seconds_bucket"), "s"),
        Panel("Images of a batch", quantiles(f"{CLASSIFIER}batch_images_bucket")),
        Panel(
            "Memory of replicas",
            {
                "{{ip}}": "sum by (ip) (ray_component_rss_bytes"
                '{Component="ray::ServeReplica:classifier:Classifier"})'
            },
            "bytes",
            width=24,
            height=5,
        ),
    ],
)
