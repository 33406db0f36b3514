"""Calls, failures, latency, waiting work and machines at a glance."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel
from deploy.monitoring.series import CALLS, IN_PROGRESS

BOARD = Board(
    "overview",
    "overview",
    "Is it well? Calls, failures, latency, work that waits, and the machines.",
    [
        Panel(
            "Targets answering",
            {"": 'sum(up{job=~"cytosynth-.+"})'},
            description="Scrape targets of Cytosynth that answer Prometheus.",
            width=4,
            height=5,
            stat=True,
        ),
        Panel("Calls", {"": f"sum(rate({CALLS}[5m]))"}, "reqps", width=4, height=5, stat=True),
        Panel(
            "Failed calls, 1 h",
            {"": "max(service:cytosynth_errors:ratio_rate1h)"},
            "percentunit",
            "The worst service; the budget is 0.5 % over 30 days.",
            width=4,
            height=5,
            stat=True,
            limit=0.005,
        ),
        Panel(
            "Time to drain",
            {"": "cytosynth:generator_drain:seconds"},
            "s",
            "Backlog over throughput.",
            width=4,
            height=5,
            stat=True,
            limit=7200,
        ),
        Panel(
            "Jobs running",
            {"": 'sum(max by (kind) (cytosynth_trainer_jobs{state="RUNNING"}))'},
            width=4,
            height=5,
            stat=True,
        ),
        Panel(
            "Certificate",
            {"": "min(envoy_server_days_until_first_cert_expiring)"},
            "d",
            "Until the edge's first certificate expires.",
            width=4,
            height=5,
            stat=True,
        ),
        Panel(
            "Calls by service",
            {"{{application}}": f"sum by (application) (rate({CALLS}[5m]))"},
            "reqps",
        ),
        Panel(
            "Calls in progress by service",
            {"{{application}}": f"sum by (application) ({IN_PROGRESS})"},
            description="Running, or waiting for a slot.",
        ),
        Panel(
            "Failed calls by service",
            {"{{service}}": "service:cytosynth_errors:ratio_rate5m"},
            "percentunit",
            limit=0.005,
        ),
        Panel(
            "Slow calls by service",
            {"{{service}}": "service:cytosynth_slow:ratio_rate5m"},
            "percentunit",
            "Classify over 2 s, a small request's first image over 4 s, a trainer call over 0.5 s.",
            limit=0.05,
            width=12,
        ),
        Panel(
            "Replicas",
            {"{{deployment}}": "sum by (deployment) (ray_serve_deployment_replica_healthy)"},
            width=12,
        ),
        Panel(
            "CPU of nodes",
            {"{{ip}}": "max by (ip) (ray_node_cpu_utilization)"},
            "percent",
            width=12,
        ),
        Panel(
            "Memory and disk of nodes",
            {
                "memory {{ip}}": "max by (ip) (ray_node_mem_used / ray_node_mem_total)",
                "disk {{ip}}": "max by (ip) (ray_node_disk_utilization_percentage) / 100",
            },
            "percentunit",
            limit=0.85,
            width=12,
        ),
    ],
)
