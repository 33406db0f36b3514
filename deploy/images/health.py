"""Whether the service in this container answers: exit status 0 if it is SERVING."""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main() -> int:
    """Asks gRPC's health service once."""
    address = f"127.0.0.1:{os.environ.get('CYTOSYNTH_SERVE_PORT', '9000')}"
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=8
            )
        except grpc.RpcError as error:
            sys.stderr.write(f"{error.code().name}\n")
            return 1
    return 0 if answer.status == answer.SERVING else 1


if __name__ == "__main__":
    raise SystemExit(main())
