"""The gRPC server of a service, inside a Serve replica.

Serve starts, checks and replaces the replica; calls reach the server without Serve. It listens on
the first free port of a few: replicas of one machine stand side by side, and a new one beside one
that ends. The edge finds out by health checks which of them answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from services.common.rpc.call_slots import CallSlots
from services.common.rpc.handlers import interrupt_calls
from services.common.rpc.health import HealthServicer, RunningApplications, ServeApplications
from services.common.rpc.reflection import add_reflection

HOST_VARIABLE = "CYTOSYNTH_SERVE_HOST"
PORT_VARIABLE = "CYTOSYNTH_SERVE_PORT"
DEFAULT_PORT = 9000
NUM_PORTS = 4
"""Ports of a pod, upwards from the first; replicas of a service in one pod, at most."""
_NOTICE_SECONDS = 1.5
"""For the edge, which asks every second, to see that a server ends."""
_GRACE_SECONDS = 2.5
SHUTDOWN_SECONDS = 6.0
"""Serve kills a replica that has not ended by then."""
_PING_MILLISECONDS = 10_000


@dataclass(frozen=True)
class Listen:
    """Where the servers of a service listen.

    Attributes:
        host: Address to bind; there is neither TLS nor a check of the tenant behind it.
        ports: Each replica on a machine takes the first that is free.
    """

    host: str
    ports: tuple[int, ...]

    @staticmethod
    def from_environment() -> Listen:
        """``CYTOSYNTH_SERVE_HOST`` and ``CYTOSYNTH_SERVE_PORT``; by default loopback, 9000."""
        host = os.environ.get(HOST_VARIABLE) or "127.0.0.1"
        first = int(os.environ.get(PORT_VARIABLE) or DEFAULT_PORT)
        return Listen(host, tuple(range(first, first + NUM_PORTS)))


class NoFreePort(Exception):
    """All ports of the service are taken."""


class ReplicaServer:
    """Serves a servicer's handlers, health and reflection."""

    def __init__(
        self,
        servicer: Any,
        services: Sequence[str],
        listen: Listen,
        max_message_bytes: int,
        running_applications: RunningApplications,
    ) -> None:
        """Binds a port; answers a moment later.

        Args:
            servicer: Has a handler for every method of the service.
            services: Those that it has the methods of: "generator", "classifier", "trainer".
            listen: Where to listen.
            max_message_bytes: Largest message that is taken or sent.
            running_applications: Asked for the health of other services.

        Raises:
            NoFreePort: If there is none.
        """
        self._health = HealthServicer(services[0], running_applications)
        self._server = _new_server(max_message_bytes)
        for service in services:
            _add_service(servicer, service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server)
        self.port = _bind(self._server, listen)
        self._started = asyncio.get_running_loop().create_task(self._server.start())

    async def check(self) -> None:
        """Returns when the server answers; raises what kept it from starting."""
        await asyncio.shield(self._started)

    async def stop(self) -> None:
        """Ends after running calls, or ends them as UNAVAILABLE some seconds later."""
        self._health.end()
        await asyncio.sleep(_NOTICE_SECONDS)
        stopping = asyncio.create_task(self._server.stop(2 * _GRACE_SECONDS))
        await asyncio.wait([stopping], timeout=_GRACE_SECONDS)
        interrupt_calls()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping


class ServedReplica:
    """A replica whose server Serve checks and ends; ``serve`` starts it."""

    call_slots: CallSlots
    _server: ReplicaServer

    def serve(
        self,
        services: Sequence[str],
        listen: Listen | None,
        max_message_bytes: int,
        call_slots: CallSlots,
    ) -> None:
        """Starts the server of this replica's handlers.

        Args:
            services: As ``ReplicaServer``.
            listen: Where to listen; None: where this process's environment says.
            max_message_bytes: Largest message that is taken or sent.
            call_slots: Bounds the calls at a time.
        """
        self.call_slots = call_slots
        self._server = ReplicaServer(
            self,
            services,
            listen or Listen.from_environment(),
            max_message_bytes,
            ServeApplications(),
        )

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        await self._server.check()

    async def __del__(self) -> None:
        """Called by Serve before it ends the replica."""
        if server := getattr(self, "_server", None):
            await server.stop()


def _new_server(max_message_bytes: int) -> grpc.aio.Server:
    options: Mapping[str, int] = {
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.max_send_message_length": max_message_bytes,
        "grpc.so_reuseport": 0,  # a taken port is to be refused, not shared
        # A client that vanished without a word frees its calls.
        "grpc.keepalive_time_ms": 3 * _PING_MILLISECONDS,
        "grpc.keepalive_timeout_ms": 2 * _PING_MILLISECONDS,
        "grpc.http2.min_recv_ping_interval_without_data_ms": _PING_MILLISECONDS,
        "grpc.keepalive_permit_without_calls": 1,
    }
    return grpc.aio.server(options=list(options.items()))


def _add_service(servicer: Any, service: str, server: grpc.aio.Server) -> None:
    stubs = import_module(f"cytosynth.{service}.v1.{service}_pb2_grpc")
    getattr(stubs, f"add_{service.capitalize()}ServiceServicer_to_server")(servicer, server)


def _bind(server: grpc.aio.Server, listen: Listen) -> int:
    for port in listen.ports:
        with contextlib.suppress(RuntimeError):
            return int(server.add_insecure_port(f"{listen.host}:{port}"))
    ports = ", ".join(map(str, listen.ports))
    raise NoFreePort(f"none of the ports {ports} of {listen.host} is free")
