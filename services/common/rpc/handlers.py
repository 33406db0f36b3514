"""Handlers of gRPC methods; domain errors reach clients as statuses.

The decorators wrap the methods of a servicer so that they read ``async def Method(self, request,
call: Call)`` and raise domain errors, which ``statuses`` translates::

    class Classifier:
        @unary(ClassifyResponse)
        async def Classify(self, request, call): ...

        @bidi_stream
        async def ClassifyStream(self, requests, call):
            async for request in requests:
                yield ...
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from prometheus_client import Counter, Gauge, Histogram

from cytosynth import traces
from services.common import errors, resource_names
from services.common.exposition import GAUGE_OF_ALL
from services.common.logs import request_id_var, tenant_var
from services.common.rpc.call_slots import CallSlots
from services.common.rpc.statuses import to_status

DETAILS_TRAILER = "grpc-status-details-bin"
TENANT_HEADER = "x-cytosynth-tenant"
REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
TRACEPARENT_HEADER = "traceparent"
DEFAULT_TENANT = "local"
_logger = logging.getLogger("cytosynth.calls")
CODES = {code.value[0]: code for code in grpc.StatusCode}
_NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Call:
    """Who calls, under which id, until when.

    Attributes:
        tenant: The caller's tenant; the edge takes it from the client certificate.
        request_id: In every log line and error of this call.
        deadline: ``time.monotonic()`` after which the caller no longer waits, or None.
    """

    tenant: str = DEFAULT_TENANT
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    deadline: float | None = None


@dataclass(frozen=True)
class CallRecord:
    """A finished call, as the audit log and the metrics see it."""

    service: str
    method: str
    code: str
    seconds: float
    num_messages: int


_observers: list[Callable[[CallRecord], None]] = []
_gauges: list[Callable[[float], None]] = []
_CALLS = Counter(
    "cytosynth_calls_total",
    "Finished calls.",
    ("application", "service", "method", "code"),
    registry=None,
)
_CALL_SECONDS = Histogram(
    "cytosynth_call_seconds",
    "Duration of calls, seconds.",
    ("application", "service", "method", "code"),
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
    registry=None,
)
_CALLS_IN_PROGRESS = Gauge(
    "cytosynth_calls_in_progress",
    "Calls and streams that run or wait for a slot.",
    ("application",),
    multiprocess_mode=GAUGE_OF_ALL,
    registry=None,
)


def set_observer(
    observer: Callable[[CallRecord], None], running: Callable[[float], None] | None = None
) -> None:
    """Sets who is told of this process's calls.

    Args:
        observer: Gets every finished call.
        running: Gets the number of running calls whenever it changes.
    """
    _observers[:] = [observer]
    _gauges[:] = [running] if running else []


def metrics_observer(
    application: str,
) -> tuple[Callable[[CallRecord], None], Callable[[float], None]]:
    """Both arguments of ``set_observer`` that export the calls as series."""

    def observe(record: CallRecord) -> None:
        labels = application, record.service, record.method, record.code
        _CALLS.labels(*labels).inc()
        _CALL_SECONDS.labels(*labels).observe(record.seconds)

    running = _CALLS_IN_PROGRESS.labels(application)
    running.set(0)
    return observe, running.set


def unary(response_type: type[Message]) -> Callable[..., Any]:
    """Wraps ``async def Method(self, request, call) -> response``."""

    def decorate(handler: Callable[[Any, Any, Call], Awaitable[Message]]) -> Callable[..., Any]:
        async def method(self: Any, request: Any, grpc_context: Any) -> Message:
            with _running(self, handler.__name__, grpc_context) as run:
                run.num_messages = 1
                async with _slot(self):
                    return await handler(self, request, run.call())
            run.set_on(grpc_context)
            return response_type()

        return _named_after(handler, method)

    return decorate


def client_stream(response_type: type[Message]) -> Callable[..., Any]:
    """Wraps ``async def Method(self, requests, call) -> response``.

    A caller that vanishes may look like one that has sent everything, so the handler must ask for
    an explicit last message.
    """

    def decorate(
        handler: Callable[[Any, AsyncIterator[Any], Call], Awaitable[Message]],
    ) -> Callable[..., Any]:
        async def method(self: Any, request_stream: Any, grpc_context: Any) -> Message:
            with _running(self, handler.__name__, grpc_context) as run:
                async with _slot(self):
                    return await handler(self, _messages(request_stream, run), run.call())
            run.set_on(grpc_context)
            return response_type()

        return _named_after(handler, method)

    return decorate


def server_stream(
    handler: Callable[[Any, Any, Call], AsyncGenerator[Message, None]],
) -> Callable[..., Any]:
    """Wraps an async generator ``Method(self, request, call)``; it is closed on cancellation."""

    async def method(self: Any, request: Any, grpc_context: Any) -> AsyncGenerator[Any, None]:
        with _running(self, handler.__name__, grpc_context) as run:
            answering = contextlib.aclosing(handler(self, request, run.call()))
            async with _slot(self), answering as answers:
                async for answer in answers:
                    run.num_messages += 1
                    yield answer
        if run.status is not None:
            run.set_on(grpc_context)

    return _named_after(handler, method)


def bidi_stream(
    handler: Callable[[Any, AsyncIterator[Any], Call], AsyncGenerator[Message, None]],
) -> Callable[..., Any]:
    """Wraps an async generator ``Method(self, requests, call)``."""

    async def method(
        self: Any, request_stream: Any, grpc_context: Any
    ) -> AsyncGenerator[Any, None]:
        with _running(self, handler.__name__, grpc_context) as run:
            answering = contextlib.aclosing(
                handler(self, _messages(request_stream, run), run.call())
            )
            async with _slot(self), answering as answers:
                async for answer in answers:
                    yield answer
        if run.status is not None:
            run.set_on(grpc_context)

    return _named_after(handler, method)


def request_id_of(grpc_context: Any) -> str:
    """The edge's request id, else a new one."""
    request_id = dict(grpc_context.invocation_metadata()).get(REQUEST_ID_HEADER)
    if isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id):
        return request_id
    return uuid.uuid4().hex


class _Run:
    """A running call's identity, and its status once it failed."""

    def __init__(self, grpc_context: Any) -> None:
        self._headers = dict(grpc_context.invocation_metadata())
        self.request_id = request_id_of(grpc_context)
        self.num_messages = 0
        self.status: status_pb2.Status | None = None
        self._task = asyncio.current_task()
        self._interrupted = False

    def interrupt(self) -> None:
        """Ends the call as UNAVAILABLE."""
        if self._task is not None:
            self._interrupted = True
            self._task.cancel()

    def fail(self, error: BaseException) -> bool:
        """Takes the failure for the call's status; False if the caller went away."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            if not self._interrupted:
                return False
            error = errors.Unavailable("the service is being replaced")
        self.status = to_status(error, self.request_id)
        return True

    def open_span(self, service: str, method: str) -> traces.Span:
        """The span of this call, below the one that the caller names."""
        name = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        parent = str(self._headers.get(TRACEPARENT_HEADER, ""))
        return traces.open_span(f"{service}/{method}", "SERVER", parent, name)

    def call(self) -> Call:
        tenant = self._headers.get(TENANT_HEADER, DEFAULT_TENANT)
        if not isinstance(tenant, str) or not resource_names.is_id(tenant):
            raise errors.InvalidArgument(
                TENANT_HEADER, "is malformed", f"send {resource_names.ID_RULE}"
            )
        tenant_var.set(tenant)
        timeout_ms = str(self._headers.get(TIMEOUT_HEADER, ""))
        deadline = time.monotonic() + int(timeout_ms) / 1000 if timeout_ms.isdigit() else None
        return Call(tenant=tenant, request_id=self.request_id, deadline=deadline)

    def set_on(self, grpc_context: Any) -> None:
        """Writes the failure's status and details into a context."""
        assert self.status is not None
        grpc_context.set_code(CODES[self.status.code])
        grpc_context.set_details(self.status.message)
        grpc_context.set_trailing_metadata([(DETAILS_TRAILER, self.status.SerializeToString())])


_active: set[_Run] = set()


def interrupt_calls() -> None:
    """Ends every running call of this process as UNAVAILABLE."""
    for run in [*_active]:
        run.interrupt()


@contextlib.contextmanager
def _running(servicer: Any, method: str, grpc_context: Any) -> Iterator[_Run]:
    """Times and logs a call; swallows its failure into ``run.status``."""
    run = _Run(grpc_context)
    _active.add(run)
    _tell_running()
    request_id_var.set(run.request_id)
    service = type(servicer).__name__
    span = run.open_span(service, method)
    traces.traceparent_var.set(span.traceparent)
    started, code = time.monotonic(), "OK"
    try:
        yield run
    except (Exception, asyncio.CancelledError, GeneratorExit) as error:
        code = "CANCELLED"
        if not run.fail(error):
            raise
        assert run.status is not None
        code = CODES[run.status.code].name
    finally:
        _active.discard(run)
        _tell_running()
        seconds = time.monotonic() - started
        fields = {
            "service": service,
            "method": method,
            "code": code,
            "seconds": round(seconds, 4),
            "num_messages": run.num_messages,
        }
        if run.status is not None:
            fields["error"] = run.status.message
        _logger.info("call", extra={"fields": fields})
        for observe in _observers:
            observe(CallRecord(service, method, code, seconds, run.num_messages))
        span.set(
            {"cytosynth.num_messages": run.num_messages, "rpc.grpc.status_code": _NUMBERS[code]}
        )
        span.end(code)


def _tell_running() -> None:
    for tell in _gauges:
        tell(len(_active))


def _slot(servicer: Any) -> contextlib.AbstractAsyncContextManager[None]:
    slots: CallSlots | None = getattr(servicer, "call_slots", None)
    return slots.slot() if slots else contextlib.nullcontext()


async def _messages(request_stream: Any, run: _Run) -> AsyncIterator[Any]:
    async for message in request_stream:
        run.num_messages += 1
        yield message


def _named_after(handler: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    # functools.wraps would show gRPC the handler's signature, without grpc_context.
    method.__name__, method.__qualname__ = handler.__name__, handler.__qualname__
    method.__module__, method.__doc__ = handler.__module__, handler.__doc__
    return method
