"""Statuses for failures that Serve's gRPC proxy reports itself.

Serve's proxy reports a killed replica, a full queue or a deployment that is away with class names,
pids and addresses in the message.  Serve calls ``install`` in its proxies
(``gRPCOptions.grpc_servicer_functions``) to put a guard around every method. The guard tells such
failures briefly and in our own terms. Streams are bounded here too (``backpressure``).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.rpc import status_pb2

from services.common import errors
from services.common.rpc.handlers import CODES, DETAILS_TRAILER, request_id_of
from services.common.rpc.statuses import to_status
from services.common.serve_patches.backpressure import bound_streams
from services.common.serve_patches.cancellation import stop_with_client

_LOST = re.compile(r"actor|worker|node|replica", re.IGNORECASE)
#: A cluster that is just starting has its proxies before its applications; clients try again.
_NO_APPLICATION = re.compile(r"Application '[^']*' not found")
_LOST_HOW = re.compile(r"died|dead|unavailable|killed|crash|lost|fail", re.IGNORECASE)


def install(servicer: Any, server: Any) -> None:
    """The first of Serve's `grpc_servicer_functions`; guards all that follow."""
    bound_streams()
    if not isinstance(server.service_handler_factory, _GuardedFactory):
        server.service_handler_factory = _GuardedFactory(server.service_handler_factory)


class _GuardedFactory:
    """Makes Serve's handlers, each followed by ``tell_briefly``."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self._factory = factory

    def __call__(self, service_method: str, streaming_type: Any) -> Callable[..., Any]:
        handler = self._factory(service_method=service_method, streaming_type=streaming_type)

        streamed = stop_with_client(handler)

        async def answer(request: Any, context: Any) -> bytes:
            response: bytes = await handler(request, context)
            tell_briefly(context)
            return response

        async def answers(request: Any, context: Any) -> AsyncIterator[bytes]:
            async for response in streamed(request, context):
                yield response
            tell_briefly(context)

        streams = streaming_type.value.endswith("_stream")
        return answers if streams else answer


def tell_briefly(context: Any) -> None:
    """Replaces a failure without our details by one for clients."""
    code = context.code()
    code = code if isinstance(code, grpc.StatusCode) else CODES.get(code, grpc.StatusCode.OK)
    trailers = tuple(context.trailing_metadata() or ())
    if code is grpc.StatusCode.OK or any(name == DETAILS_TRAILER for name, _ in trailers):
        return
    status = _status(code, context.details() or "", request_id_of(context))
    if status is not None:
        context.set_code(CODES[status.code])
        context.set_details(status.message)
        context.set_trailing_metadata((*trailers, (DETAILS_TRAILER, status.SerializeToString())))


def _status(
    code: grpc.StatusCode, details: str | bytes, request_id: str
) -> status_pb2.Status | None:
    text = details.decode(errors="replace") if isinstance(details, bytes) else details
    error: Exception
    match code:
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            error = errors.ResourceExhausted("the service is busy", "try again later", 2.0)
        case grpc.StatusCode.UNAVAILABLE:
            error = errors.Unavailable("the service is not ready", 2.0)
        case grpc.StatusCode.NOT_FOUND if _NO_APPLICATION.match(text):
            error = errors.Unavailable("the service is not ready", 2.0)
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN:
            first = text.partition("\n")[0]
            if _LOST.search(first) and _LOST_HOW.search(first):
                error = errors.Unavailable("the replica that worked on this request was lost")
            else:
                error = ProxyError(text)
        case _:  # cancelled or timed out: nothing in it to hide
            return None
    return to_status(error, request_id)


class ProxyError(Exception):
    """A failure of Serve itself; clients see the request id alone."""
