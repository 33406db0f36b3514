"""A trace collector: a real OTLP gRPC receiver that keeps everything sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class SentSpan:
    """A received span: ids in hex, ``kind`` and ``is_error`` decoded."""

    part: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    is_error: bool
    attributes: dict[str, Any]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans; ``address`` is what CYTOSYNTH_TRACES_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.address = ""
        self._spans: list[SentSpan] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            for resource in request.resource_spans:
                part = _values(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self._spans += [_span(part, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[SentSpan]:
        """All that came so far."""
        with self._lock:
            return list(self._spans)

    def wait_for(
        self, wanted: Callable[[SentSpan], bool], num: int = 1, seconds: float = 60
    ) -> Any:
        """The spans that are wanted, once there are ``num`` of them."""
        deadline = time.monotonic() + seconds
        while len(found := [span for span in self.spans if wanted(span)]) < num:
            assert time.monotonic() < deadline, [(s.part, s.name) for s in self.spans]
            time.sleep(0.1)
        return found

    def line_of(self, span: SentSpan) -> list[tuple[str, str]]:
        """Part and name of a span's ancestors, eldest first, and of itself."""
        by_id = {each.span_id: each for each in self.spans}
        line = [span]
        while parent := by_id.get(line[0].parent_id):
            assert parent.trace_id == span.trace_id
            line.insert(0, parent)
        assert not line[0].parent_id, f"the parent of {line[0].part} {line[0].name} never came"
        return [(each.part, each.name) for each in line]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free loopback port."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.address = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _span(part: str, span: Any) -> SentSpan:
    return SentSpan(
        part=part,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
