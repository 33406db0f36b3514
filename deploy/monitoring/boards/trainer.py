"""The trainer's jobs: how many, how long, and whether they move."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel
from deploy.monitoring.series import CALLS

_TRAINER = "cytosynth_trainer_"
BOARD = Board(
    "trainer",
    "trainer",
    "Jobs: how many, how long, and whether they move.",
    [
        Panel(
            "Jobs running and waiting",
            {
                "{{kind}} {{state}}": f"max by (kind, state) "
                f'({_TRAINER}jobs{{state=~"RUNNING|PENDING"}})'
            },
        ),
        Panel(
            "Jobs ended",
            {
                "{{kind}} {{state}}": f"max by (kind, state) "
                f'({_TRAINER}jobs{{state=~"SUCCEEDED|FAILED|CANCELLED"}}) > 0'
            },
        ),
        Panel(
            "Duration of jobs",
            {
                f"{{{{kind}}}} p{percent}": f"histogram_quantile(0.{percent}, "
                f"sum by (le, kind) ({_TRAINER}job_seconds_bucket))"
                for percent in (50, 95)
            },
            "s",
            "From creation to end, of all jobs since the front began: they are few.",
        ),
        Panel(
            "Oldest waiting job",
            {"{{kind}}": f"max by (kind) ({_TRAINER}job_waiting_seconds)"},
            "s",
            limit=3600,
        ),
        Panel(
            "Since the last step",
            {"{{kind}}": f"max by (kind) ({_TRAINER}job_unmoved_seconds)"},
            "s",
            limit=1800,
        ),
        Panel(
            "Since the last heartbeat",
            {"{{kind}}": f"max by (kind) ({_TRAINER}job_silent_seconds)"},
            "s",
            limit=60,
        ),
        Panel(
            "Attempts of unfinished jobs",
            {"{{kind}}": f"max by (kind) ({_TRAINER}job_attempts)"},
            limit=3,
        ),
        Panel(
            "Calls",
            {"{{method}}": f'sum by (method) (rate({CALLS}{{application="trainer"}}[5m]))'},
            "reqps",
        ),
        Panel(
            "Steps of jobs",
            {"{{kind}}": "sum by (kind) (rate(cytosynth_runner_job_steps_total[5m]))"},
            "cps",
            "Steps done again after a loss count again.",
        ),
        Panel(
            "Runners at work",
            {"{{kind}}": "sum by (kind) (rate(cytosynth_runner_busy_seconds_total[5m]))"},
            description="Seconds of work per second: how many runners are busy.",
            stacked=True,
            width=12,
        ),
        Panel(
            "Memory of job runners",
            {"{{ip}}": 'sum by (ip) (ray_component_rss_bytes{Component="ray::JobRunner"})'},
            "bytes",
            width=12,
        ),
    ],
)
