"""Health, reflection and a loopback listener inside Ray Serve's proxy."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from services.common.rpc.reflection import add_health, add_reflection

LISTEN_HOST_VARIABLE = "CYTOSYNTH_SERVE_HOST"
LOOPBACK_CALLBACK = "services.common.serve_patches.proxy_setup.listen_on_loopback"
_STATUS_SECONDS = 1.0


class _RunningApplications:
    """Asks Serve's controller, at most once a second."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._asked = -_STATUS_SECONDS
        self._lock = asyncio.Lock()

    async def __call__(self) -> set[str]:
        from ray import serve

        async with self._lock:
            if time.monotonic() - self._asked >= _STATUS_SECONDS:
                applications = (await asyncio.to_thread(serve.status)).applications
                self._names = {
                    name for name, app in applications.items() if app.status == "RUNNING"
                }
                self._asked = time.monotonic()
        return self._names


def add_reflection_and_health_to_server(servicer: Any, server: Any) -> None:
    """The last of Serve's `grpc_servicer_functions`; `servicer` is Serve's dummy."""
    add_health(server, _RunningApplications())
    add_reflection(server)


def listen_on_loopback() -> list[Any]:
    """Serve's proxy callback (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`): no HTTP middleware.

    Serve binds its gRPC listener, which knows neither TLS nor tenants, to all addresses and has no
    option for it. With `CYTOSYNTH_SERVE_HOST` set it binds to that address, so that nobody on the
    network gets past the edge.
    """
    host = os.environ.get(LISTEN_HOST_VARIABLE)
    if host:
        from ray.serve._private import default_impl

        def add_grpc_address(server: Any, address: str) -> None:
            server.add_insecure_port(f"{host}:{address.rpartition(':')[2]}")

        default_impl.add_grpc_address = add_grpc_address
    return []
