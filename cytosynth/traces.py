"""Distributed traces through OpenTelemetry (OTLP over gRPC).

Off until ``start`` is given a collector; until then nothing of OpenTelemetry is imported and every
span is empty. Two context variables keep the current request and span; logs read them as well.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

request_id_var: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that this task or thread works for; empty: none."""
traceparent_var: ContextVar[str] = ContextVar("traceparent", default="")
"""The span that this task or thread works for, as W3C writes it; empty: none."""

Kind = Literal["CLIENT", "SERVER", "CONSUMER", "INTERNAL"]
Value = str | int | float | bool

# Longer waits would hold up a command that ends while no collector answers.
_EXPORT_SECONDS = 3
_BATCH_MILLISECONDS = 1000
_ENDPOINT = re.compile(r"http://(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# Codes that count as errors of the server; all others are the caller's.
_SERVER_ERRORS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_GOOD = frozenset({"OK", "CANCELLED"})

_provider: TracerProvider | None = None


class Span:
    """One span of a trace; this class is the empty one."""

    traceparent = ""

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes; never tenants, or names of images or patients."""

    def end(self, code: str = "OK") -> None:
        """End the span with a gRPC status name; once only."""


class _RecordedSpan(Span):
    def __init__(self, span: Any, kind: Kind) -> None:
        self._span, self._kind = span, kind
        context = span.get_span_context()
        flags = int(context.trace_flags)
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    def set(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)

    def end(self, code: str = "OK") -> None:
        from opentelemetry.trace import StatusCode

        if not self._span.is_recording():
            return
        is_error = code in _SERVER_ERRORS if self._kind == "SERVER" else code not in _GOOD
        if is_error:
            # The code alone: messages may name a user's files.
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def check_endpoint(endpoint: str) -> str:
    """The endpoint as it was given.

    Raises:
        ValueError: It is neither empty nor http://host:port.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    if endpoint and not (match and 0 < int(match[1]) < 65536):
        raise ValueError("must be http://host:port of an OTLP gRPC collector, or empty")
    return endpoint


def start(endpoint: str, part: str) -> None:
    """Start sending the spans of this process to a collector; idempotent.

    Args:
        endpoint: ``http://host:port`` of an OTLP gRPC receiver; empty: nothing is sent.
        part: Which part of Cytosynth this process is, for example ``generator``.

    Raises:
        ValueError: The endpoint is malformed.
    """
    global _provider
    if not check_endpoint(endpoint) or _provider is not None:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(
        endpoint=endpoint,
        insecure=True,
        timeout=_EXPORT_SECONDS,
        channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]
    )
    resource = Resource.create({"service.namespace": "cytosynth", "service.name": part})
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=_BATCH_MILLISECONDS)
    )


def flush() -> None:
    """Send all ended spans; for processes that end without notice."""
    if _provider is not None:
        _provider.force_flush(_EXPORT_SECONDS * 1000)


def open_span(
    name: str,
    kind: Kind,
    parent: str | None = None,
    attributes: Mapping[str, Value] | None = None,
) -> Span:
    """Open a span, which the caller must end.

    Args:
        name: What is done: a method, a kind of job.
        kind: CLIENT and SERVER of a call, CONSUMER of a job, or INTERNAL.
        parent: Traceparent of the span that asked for it; None: the one of this task or thread;
            empty or malformed: none, and a trace begins here.
        attributes: What is known of it; see ``Span.set``.
    """
    if _provider is None:
        return Span()
    from opentelemetry.trace import SpanKind

    span = _provider.get_tracer("cytosynth").start_span(
        name,
        context=_context(traceparent_var.get() if parent is None else parent),
        kind=SpanKind[kind],
        attributes=_with_request_id(attributes),
    )
    return _RecordedSpan(span, kind)


@contextlib.contextmanager
def span(
    name: str,
    kind: Kind = "INTERNAL",
    parent: str | None = None,
    attributes: Mapping[str, Value] | None = None,
) -> Iterator[Span]:
    """A span around a block, current for the task or thread meanwhile."""
    opened = open_span(name, kind, parent, attributes)
    before = traceparent_var.get()
    traceparent_var.set(opened.traceparent)
    try:
        yield opened
    except Exception as error:
        opened.end(str(getattr(error, "code", "UNKNOWN")))
        raise
    finally:
        # Set back by value: a generator may be closed in another context than it began in.
        traceparent_var.set(before)
        opened.end()


def trace_id() -> str:
    """The trace that this task or thread works for; empty: none."""
    match = _TRACEPARENT.fullmatch(traceparent_var.get())
    return match[1] if match else ""


def _with_request_id(attributes: Mapping[str, Value] | None) -> dict[str, Value]:
    request_id = request_id_var.get()
    known: dict[str, Value] = {"cytosynth.request_id": request_id} if request_id else {}
    return known | dict(attributes or {})


def _context(traceparent: str) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    match = _TRACEPARENT.fullmatch(traceparent)
    if not match:
        return Context()
    parent = SpanContext(
        int(match[1], 16),
        int(match[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[3], 16)),
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())
