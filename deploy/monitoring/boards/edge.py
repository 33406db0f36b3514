"""The edge's calls, refusals and connections."""

from __future__ import annotations

from deploy.monitoring.panels import Board, Panel

_EDGE = 'envoy_http_conn_manager_prefix="edge"'
BOARD = Board(
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
            "Refused by the rate limit",
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
            "Repeated calls",
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
        Panel(
            "Restarts of the local edge, last hour",
            {"{{part}}": "sum by (part) (increase(cytosynth_stack_part_restarts_total[1h]))"},
            description="By the supervisor of 'cytosynth up'; on Kubernetes there is none.",
            width=12,
        ),
        Panel(
            "Uptime of the local stack",
            {"{{instance}}": "time() - cytosynth_stack_start_time_seconds"},
            "s",
            "Of the supervisor of 'cytosynth up'; on Kubernetes there is none.",
            width=12,
        ),
    ],
)
