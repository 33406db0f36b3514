"""The generator's throughput, backlog and replicas."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel
from deploy.monitoring.series import GENERATOR, quantiles

BOARD = Board(
    "generator",
    "generator",
    "What is generated, how fast, and what waits.",
    [
        Panel(
            "Images",
            {"{{tenant}} {{base}}": f"sum by (tenant, base) (rate({GENERATOR}images_total[5m]))"},
            "cps",
        ),
        Panel("Backlog", {"UNet evaluations": "cytosynth:generator_backlog:evaluations"}),
        Panel("Time to drain", {"": "cytosynth:generator_drain:seconds"}, "s", limit=7200),
        Panel(
            "UNet evaluations by tenant",
            {"{{tenant}}": f"sum by (tenant) (rate({GENERATOR}unet_evaluations_total[5m]))"},
            "cps",
            stacked=True,
        ),
        Panel("First image", quantiles(f"{GENERATOR}first_image_seconds_bucket"), "s", limit=4),
        Panel("One step of a batch", quantiles(f"{GENERATOR}step_seconds_bucket"), "s"),
        Panel(
            "Rows of batches",
            {
                "used": f"sum(rate({GENERATOR}unet_evaluations_total[5m]))",
                "padding": f"sum(rate({GENERATOR}padding_evaluations_total[5m]))",
            },
            "cps",
            "Padding rows are computed and thrown away; a full batch has none.",
            stacked=True,
        ),
        Panel(
            "Adapters",
            {
                "there": f"sum(rate({GENERATOR}adapter_hits_total[5m]))",
                "loaded": f"sum(rate({GENERATOR}adapter_misses_total[5m]))",
            },
            "cps",
            "Images whose adapter was in memory, and adapters read from the store.",
        ),
        Panel(
            "Generator replicas",
            {
                "wanted": 'max(ray_serve_autoscaling_target_replicas{deployment="SamplerReplica"})',
                "healthy": 'sum(ray_serve_deployment_replica_healthy{deployment="SamplerReplica"})',
            },
        ),
        Panel(
            "GPU",
            {"{{ip}} {{GpuIndex}}": "max by (ip, GpuIndex) (ray_node_gpus_utilization)"},
            "percent",
            "Exported by Ray on nodes with a GPU; empty elsewhere.",
            width=24,
            height=4,
        ),
    ],
)
