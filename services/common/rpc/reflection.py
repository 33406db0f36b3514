"""gRPC reflection and health, answered in Serve's proxy.

Serve's gRPC proxy itself answers, so calls need no application and no metadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cytosynth.service_methods import SERVICE_NAMES

GRPC_SERVICER_FUNCTIONS = (
    "services.common.serve_patches.proxy_errors.install",
    "cytosynth.generator.v1.generator_pb2_grpc.add_GeneratorServiceServicer_to_server",
    "cytosynth.classifier.v1.classifier_pb2_grpc.add_ClassifierServiceServicer_to_server",
    "cytosynth.trainer.v1.trainer_pb2_grpc.add_TrainerServiceServicer_to_server",
    "services.common.serve_patches.proxy_setup.add_reflection_and_health_to_server",
)
"""`grpc_servicer_functions` of Serve; the first and the last rely on being so."""

HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
REFLECTION_V1ALPHA = reflection.SERVICE_NAME

RunningApplications = Callable[[], Awaitable[set[str]]]
"""Gives the names of the applications that take calls now."""
_WATCH_SECONDS = 1.0


class HealthServicer(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1` for each service, and for all under ''."""

    def __init__(self, running_applications: RunningApplications) -> None:
        self._running_applications = running_applications

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """NOT_FOUND for a service that does not exist, as the protocol asks."""
        status = await self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: {request.service[:100]!r} is unknown; "
                f"use '' or one of {', '.join(SERVICE_NAMES)}",
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Sends the status now and whenever it changes."""
        last = None
        while True:
            status = await self._status(request.service)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            await asyncio.sleep(_WATCH_SECONDS)

    async def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service and service not in SERVICE_NAMES:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        running = await self._running_applications()
        asked = [service] if service else SERVICE_NAMES
        if all(name.split(".")[1] in running for name in asked):
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING


def add_health(server: Any, running_applications: RunningApplications) -> None:
    """Lets a gRPC server answer `grpc.health.v1`."""
    _answer_here(server, HEALTH_SERVICE)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(running_applications), server)


def add_reflection(server: Any) -> None:
    """Adds reflection v1; Serve adds v1alpha itself.

    Both versions have the same messages.
    """
    _answer_here(server, REFLECTION_V1)
    names = (*SERVICE_NAMES, HEALTH_SERVICE, REFLECTION_V1, REFLECTION_V1ALPHA)
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler}),)
    )


def _answer_here(server: Any, service_name: str) -> None:
    """Keeps Serve from sending this service's calls to a replica."""
    mark = getattr(server, "add_passthrough_service", None)
    if mark is not None:
        mark(service_name)
