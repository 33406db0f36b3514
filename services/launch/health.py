"""Container health probe; exits with 0 if any service is SERVING."""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cytosynth.service_methods import SERVICE_NAMES


def main() -> int:
    """Asks gRPC's health service once for each."""
    address = f"127.0.0.1:{os.environ.get('CYTOSYNTH_SERVE_PORT', '9000')}"
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        health, states = health_pb2_grpc.HealthStub(channel), []
        for name in SERVICE_NAMES:
            request = health_pb2.HealthCheckRequest(service=name)
            try:
                states.append(health.Check(request, timeout=3).status)
            except grpc.RpcError as error:
                sys.stderr.write(f"{name}: {error.code().name}\n")
    return 0 if health_pb2.HealthCheckResponse.SERVING in states else 1


if __name__ == "__main__":
    raise SystemExit(main())
