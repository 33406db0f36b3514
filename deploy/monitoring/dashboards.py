"""The dashboards: what is on each of them."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel

_CALLS = "ray_cytosynth_calls_total"
_SECONDS = "ray_cytosynth_call_seconds_bucket"


def _quantiles(bucket: str, selector: str = "") -> dict[str, str]:
    """Median and 95th percentile of a histogram."""
    return {
        f"p{percent}": f"histogram_quantile(0.{percent}, "
        f"sum by (le) (rate({bucket}{selector}[5m])))"
        for percent in (50, 95)
    }


OVERVIEW = Board(
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
        Panel("Calls", {"": f"sum(rate({_CALLS}[5m]))"}, "reqps", width=4, height=5, stat=True),
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
            "What the generator owes over what it draws.",
            width=4,
            height=5,
            stat=True,
            limit=7200,
        ),
        Panel(
            "Jobs running",
            {"": 'sum(max by (kind) (ray_cytosynth_trainer_jobs{state="RUNNING"}))'},
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
            {"{{application}}": f"sum by (application) (rate({_CALLS}[5m]))"},
            "reqps",
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
        ),
        Panel(
            "Replicas",
            {"{{deployment}}": "sum by (deployment) (ray_serve_deployment_replica_healthy)"},
        ),
        Panel("CPU of nodes", {"{{ip}}": "max by (ip) (ray_node_cpu_utilization)"}, "percent"),
        Panel(
            "Memory and disk of nodes",
            {
                "memory {{ip}}": "max by (ip) (ray_node_mem_used / ray_node_mem_total)",
                "disk {{ip}}": "max by (ip) (ray_node_disk_utilization_percentage) / 100",
            },
            "percentunit",
            limit=0.85,
        ),
    ],
)

_GENERATOR = "ray_cytosynth_generator_"
GENERATOR = Board(
    "generator",
    "generator",
    "What is drawn, how fast, and what waits.",
    [
        Panel(
            "Images",
            {"{{tenant}} {{base}}": f"sum by (tenant, base) (rate({_GENERATOR}images_total[5m]))"},
            "cps",
        ),
        Panel("Backlog", {"UNet evaluations": "cytosynth:generator_backlog:evaluations"}),
        Panel("Time to drain", {"": "cytosynth:generator_drain:seconds"}, "s", limit=7200),
        Panel(
            "UNet evaluations by tenant",
            {"{{tenant}}": f"sum by (tenant) (rate({_GENERATOR}unet_evaluations_total[5m]))"},
            "cps",
            stacked=True,
        ),
        Panel("First image", _quantiles(f"{_GENERATOR}first_image_seconds_bucket"), "s", limit=4),
        Panel("One step of a batch", _quantiles(f"{_GENERATOR}step_seconds_bucket"), "s"),
        Panel(
            "Rows of batches",
            {
                "used": f"sum(rate({_GENERATOR}unet_evaluations_total[5m]))",
                "padding": f"sum(rate({_GENERATOR}padding_evaluations_total[5m]))",
            },
            "cps",
            "Padding is computed for nothing; a full batch has none.",
            stacked=True,
        ),
        Panel(
            "Adapters",
            {
                "there": f"sum(rate({_GENERATOR}adapter_hits_total[5m]))",
                "loaded": f"sum(rate({_GENERATOR}adapter_misses_total[5m]))",
            },
            "cps",
            "Images whose adapter was in memory, and adapters read from the store.",
        ),
        Panel(
            "Sampler replicas",
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

_TRAINER = "ray_cytosynth_trainer_"
TRAINER = Board(
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
            "Since the last sign of life",
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
            {"{{method}}": f'sum by (method) (rate({_CALLS}{{application="trainer"}}[5m]))'},
            "reqps",
        ),
        Panel(
            "Memory of job runners",
            {"{{ip}}": 'sum by (ip) (ray_component_rss_bytes{Component="ray::JobRunner"})'},
            "bytes",
        ),
    ],
)

_PREDICTIONS = "ray_cytosynth_classifier_predictions_total"
CLASSIFIER = Board(
    "classifier",
    "classifier",
    "What is classified, how fast, and as what.",
    [
        Panel(
            "Images",
            {
                "{{architecture}}": "sum by (architecture) "
                "(rate(ray_cytosynth_classifier_images_total[5m]))"
            },
            "cps",
        ),
        Panel(
            "Calls by answer",
            {
                "{{method}} {{code}}": "sum by (method, code) "
                f'(rate({_CALLS}{{application="classifier"}}[5m]))'
            },
            "reqps",
        ),
        Panel("Classify", _quantiles(_SECONDS, '{method="Classify"}'), "s", limit=2),
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
            "Calls in replicas",
            {"now": 'sum(ray_serve_num_ongoing_requests_at_replicas{application="classifier"})'},
            width=12,
        ),
        Panel(
            "Memory of replicas",
            {
                "{{ip}}": "sum by (ip) (ray_component_rss_bytes"
                '{Component="ray::ServeReplica:classifier:Classifier"})'
            },
            "bytes",
            width=12,
        ),
    ],
)

_EDGE = 'envoy_http_conn_manager_prefix="edge"'
EDGE = Board(
    "edge",
    "edge",
    "The one address: what comes in, what is refused, what fails.",
    [
        Panel(
            "Calls by service",
            {
                "{{envoy_cluster_name}}": "sum by (envoy_cluster_name) "
                '(rate(envoy_cluster_grpc{grpc_code!=""}[5m]))'
            },
            "reqps",
        ),
        Panel(
            "Answers by gRPC code",
            {
                "{{envoy_cluster_name}} {{grpc_code}}": "sum by (envoy_cluster_name, grpc_code) "
                '(rate(envoy_cluster_grpc{grpc_code!=""}[5m]))'
            },
            "reqps",
            "0 OK, 3 wrong argument, 5 not found, 8 busy, 13 internal, 14 away.",
        ),
        Panel(
            "Refused for their number",
            {"calls": "sum(rate(envoy_http_local_rate_limit_rate_limited[5m]))"},
            "reqps",
        ),
        Panel(
            "Connections and streams",
            {
                "connections": f"sum(envoy_http_downstream_cx_active{{{_EDGE}}})",
                "streams": f"sum(envoy_http_downstream_rq_active{{{_EDGE}}})",
            },
        ),
        Panel(
            "Bytes",
            {
                "in": f"sum(rate(envoy_http_downstream_cx_rx_bytes_total{{{_EDGE}}}[5m]))",
                "out": f"sum(rate(envoy_http_downstream_cx_tx_bytes_total{{{_EDGE}}}[5m]))",
            },
            "Bps",
        ),
        Panel(
            "Handshakes",
            {
                "good": "sum(rate(envoy_listener_ssl_handshake[5m]))",
                "failed": "sum(rate(envoy_listener_ssl_connection_error[5m]))",
                "certificate refused": "sum(rate(envoy_listener_ssl_fail_verify_error[5m]))",
            },
            "cps",
        ),
        Panel(
            "Asked again",
            {
                "{{envoy_cluster_name}}": "sum by (envoy_cluster_name) (rate("
                'envoy_cluster_upstream_rq_retry{envoy_cluster_name!="admin"}[5m]))'
            },
            "reqps",
            "Calls that change nothing and were lost on the way.",
        ),
        Panel(
            "Until certificates expire",
            {"days": "min(envoy_server_days_until_first_cert_expiring)"},
            "d",
        ),
        Panel("Memory", {"{{instance}}": "envoy_server_memory_allocated"}, "bytes"),
    ],
)

PRIVACY = Board(
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
            "Drawn and withheld",
            {
                "{{tenant}} {{reason}}": "sum by (tenant, reason) "
                f"(rate({_GENERATOR}withheld_images_total[5m]))"
            },
            "cps",
            "near_copy is drawn again; not_finite fails the request.",
            width=12,
        ),
        Panel(
            "Images delivered, last hour",
            {"{{tenant}}": f"sum by (tenant) (increase({_GENERATOR}images_total[1h]))"},
        ),
        Panel(
            "Drift of predictions",
            {"{{tenant}}": "tenant:cytosynth_predictions:drift"},
            "percentunit",
            limit=0.25,
        ),
        Panel(
            "Predicted classes, last hour",
            {"{{class_id}}": f"sum by (class_id) (increase({_PREDICTIONS}[1h]))"},
            stacked=True,
        ),
    ],
)

BOARDS = (OVERVIEW, GENERATOR, TRAINER, CLASSIFIER, EDGE, PRIVACY)
