"""Traces: nothing while off; parents, errors and headers while on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from cytosynth import traces
from cytosynth.client.call_headers import CallHeaders
from tests.support.servers.collector import Collector, collecting
from tests.support.servers.edge import ToyServer

METHOD = "/cytosynth.trainer.v1.TrainerService/ListJobs"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setattr(traces, "_provider", None)
        traces.start(collector.address, "test")
        yield collector


@pytest.fixture
def toy() -> Iterator[tuple[ToyServer, grpc.Channel]]:
    toy = ToyServer()
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[toy])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield toy, grpc.intercept_channel(channel, CallHeaders())
    server.stop(None).wait()


def test_while_off_nothing_of_opentelemetry_is_loaded() -> None:
    code = (
        "import sys; from cytosynth import traces; import cytosynth.client; traces.start('', 'x')\n"
        "with traces.span('a') as span: assert span.traceparent == ''\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("endpoint", ["collector:4317", "https://c:4317", "http://c", "http://c:0"])
def test_a_malformed_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        traces.start(endpoint, "test")


def test_a_span_inside_a_block_is_below_it(collector: Collector) -> None:
    with traces.span("outer") as outer:
        assert traces.trace_id() == outer.traceparent.split("-")[1]
        traces.open_span("inner", "INTERNAL").end()
    assert traces.traceparent_var.get() == ""
    traces.flush()
    [inner] = collector.wait_for(lambda span: span.name == "inner")
    assert collector.line_of(inner) == [("test", "outer"), ("test", "inner")]


def test_a_failed_block_is_an_error_without_its_message(collector: Collector) -> None:
    with pytest.raises(RuntimeError), traces.span("failing"):
        raise RuntimeError("patient-7.png")
    traces.flush()
    [span] = collector.wait_for(lambda span: span.name == "failing")
    assert span.is_error and span.attributes == {"error.type": "UNKNOWN"}


@pytest.mark.parametrize(
    ("kind", "code", "is_error"),
    [
        ("SERVER", "NOT_FOUND", False),
        ("SERVER", "INTERNAL", True),
        ("CLIENT", "NOT_FOUND", True),
        ("CLIENT", "CANCELLED", False),
    ],
)
def test_who_is_to_blame(
    kind: traces.Kind, code: str, is_error: bool, collector: Collector
) -> None:
    traces.open_span("call", kind).end(code)
    traces.flush()
    [span] = collector.wait_for(lambda span: span.name == "call")
    assert span.is_error is is_error


def test_a_call_carries_its_span_and_its_requests_id(
    collector: Collector, toy: tuple[ToyServer, grpc.Channel]
) -> None:
    server, channel = toy
    token = traces.request_id_var.set("request-7")
    try:
        channel.unary_unary(METHOD)(b"", timeout=10)
    finally:
        traces.request_id_var.reset(token)
    seen = server.calls[-1].metadata
    assert seen["x-request-id"] == "request-7"
    traces.flush()
    [span] = collector.wait_for(lambda span: span.name == METHOD.strip("/"))
    assert seen["traceparent"] == f"00-{span.trace_id}-{span.span_id}-{seen['traceparent'][-2:]}"
    assert span.attributes["cytosynth.request_id"] == "request-7"
    assert span.attributes["rpc.grpc.status_code"] == 0


def test_while_off_a_call_carries_only_an_id_of_its_own(
    toy: tuple[ToyServer, grpc.Channel],
) -> None:
    server, channel = toy
    for _ in range(2):
        channel.unary_unary(METHOD)(b"", timeout=10)
    first, second = (seen.metadata for seen in server.calls)
    assert len(first["x-request-id"]) == 32 and first["x-request-id"] != second["x-request-id"]
    assert "traceparent" not in first
