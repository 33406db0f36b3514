"""``grpc.health.v1`` of a service's server, for the other services too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cytosynth.service_methods import SERVICE_NAMES

RunningApplications = Callable[[], Awaitable[set[str]]]
"""Gives the names of the applications that take calls now."""
_WATCH_SECONDS = 1.0
_STATUS_SECONDS = 1.0
_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers for its own service itself, for others as Serve says."""

    def __init__(self, service: str, running_applications: RunningApplications) -> None:
        """Serves ``service``, for example "classifier", from now on."""
        self._service, self._running_applications = service, running_applications
        self._ending = False

    def end(self) -> None:
        """Answers NOT_SERVING for this process's service from now on."""
        self._ending = True

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """NOT_FOUND for a service that does not exist, as the protocol asks."""
        status = await self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: {request.service[:100]!r} is unknown; "
                f"use '' or one of {', '.join(SERVICE_NAMES)}",
            )
        return _Status(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Sends the status now and whenever it changes."""
        last = None
        while True:
            status = await self._status(request.service)
            if status != last:
                yield _Status(status=status)
                last = status
            await asyncio.sleep(_WATCH_SECONDS)

    async def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service and service not in SERVICE_NAMES:
            return _Status.SERVICE_UNKNOWN
        asked = {name.split(".")[1] for name in ([service] if service else SERVICE_NAMES)}
        serving = not (self._ending and self._service in asked)
        if others := asked - {self._service}:
            serving = serving and others <= await self._running_applications()
        return _Status.SERVING if serving else _Status.NOT_SERVING


class ServeApplications:
    """Asks Serve's controller, at most once a second."""

    def __init__(self) -> None:
        """Asks nothing yet."""
        self._names: set[str] = set()
        self._asked = -_STATUS_SECONDS
        self._lock = asyncio.Lock()

    async def __call__(self) -> set[str]:
        """Names of the applications that are RUNNING."""
        from ray import serve

        async with self._lock:
            if time.monotonic() - self._asked >= _STATUS_SECONDS:
                applications = (await asyncio.to_thread(serve.status)).applications
                self._names = {
                    name for name, app in applications.items() if app.status == "RUNNING"
                }
                self._asked = time.monotonic()
        return self._names
