"""Request id, trace and log line of every call of the client."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from cytosynth import traces

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"


class _Details(NamedTuple):
    """``grpc.ClientCallDetails`` that can be constructed."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class CallHeaders(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Interceptor that gives each call a span and a request id."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """One request, one answer."""
        return _call(continuation, details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """One request, many answers."""
        return _call(continuation, details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Many requests, one answer."""
        return _call(continuation, details, requests)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Many requests, many answers."""
        return _call(continuation, details, requests)


def _call(continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
    service, _, method = details.method.strip("/").partition("/")
    request_id = traces.request_id_var.get() or uuid.uuid4().hex
    span = traces.open_span(
        f"{service}/{method}",
        "CLIENT",
        attributes={
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "cytosynth.request_id": request_id,
        },
    )
    headers = [*(details.metadata or ()), (REQUEST_ID_KEY, request_id)]
    if span.traceparent:
        headers.append((TRACEPARENT_KEY, span.traceparent))
    started = time.monotonic()
    called_with = _Details(
        details.method,
        details.timeout,
        headers,
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )
    try:
        call = continuation(called_with, request)
    except BaseException:
        span.end("UNKNOWN")
        raise
    call.add_done_callback(
        lambda done: _end(span, done, f"{method} (request {request_id})", started)
    )
    return call


def _end(span: traces.Span, call: Any, what: str, started: float) -> None:
    code = call.code() or grpc.StatusCode.UNKNOWN
    log.info("%s: %s after %.3f s", what, code.name, time.monotonic() - started)
    span.set({"rpc.grpc.status_code": code.value[0]})
    span.end(code.name)
