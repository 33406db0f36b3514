"""The edge's record of a call: access log, request id, spans."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cytosynth.client.errors import error_from_rpc
from services.edge.render import EdgeConfig
from tests.support.servers.collector import Collector, collecting
from tests.support.servers.edge import (
    CREATE_ADAPTER,
    LIST_JOBS,
    SYNTHESIZE,
    ToyServer,
    call,
    running_edge,
)


def test_the_access_log_says_who_called_what(
    toy: ToyServer, edge: EdgeConfig, channel: grpc.Channel
) -> None:
    call(channel, CREATE_ADAPTER)
    deadline = time.monotonic() + 15
    entries: list[dict[str, object]] = []
    while not any(entry["method"] == CREATE_ADAPTER for entry in entries):
        assert time.monotonic() < deadline, "nothing was logged"
        time.sleep(0.2)
        lines = Path(edge.access_log_path).read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.endswith("}")]
    entry = [entry for entry in entries if entry["method"] == CREATE_ADAPTER][-1]
    assert entry["tenant"] == "local"
    assert entry["grpc_status"] in ("OK", "Unavailable", "ResourceExhausted")


@pytest.mark.parametrize(
    ("sent", "told"),
    [("request-7", "request-7"), ('x"y z' + "a" * 80, "x-y-z" + "a" * 59), (None, None)],
)
def test_a_requests_id_is_the_same_for_service_client_and_serves_own_logs(
    sent: str | None, told: str | None, toy: ToyServer, channel: grpc.Channel
) -> None:
    metadata = [("x-request-id", sent)] if sent else []
    _, done = call(channel, LIST_JOBS, metadata=metadata)
    seen = toy.calls[-1].metadata
    assert seen["x-request-id"] == (told or seen["x-request-id"]) != ""
    assert seen["request_id"] == seen["x-request-id"]
    assert dict(done.initial_metadata())["x-request-id"] == seen["x-request-id"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced_channel(
    tmp_path_factory: pytest.TempPathFactory, upstream_port: int, collector: Collector
) -> Iterator[grpc.Channel]:
    folder = tmp_path_factory.mktemp("traced-edge")
    with running_edge(folder, upstream_port, traces_endpoint=collector.address) as config:
        with grpc.insecure_channel(f"127.0.0.1:{config.port}") as channel:
            yield channel


@pytest.mark.parametrize("method", [LIST_JOBS, SYNTHESIZE])
def test_a_span_of_the_edge_holds_no_message(
    method: str, toy: ToyServer, traced_channel: grpc.Channel, collector: Collector
) -> None:
    message = "patient-7.png is no image"
    toy.answer = lambda seen, request, context: context.abort(grpc.StatusCode.NOT_FOUND, message)
    toy.stream_failure = message
    above = f"00-{'ab' * 16}-{'cd' * 8}-01"
    metadata = [("traceparent", above), ("x-request-id", method[-4:])]
    with pytest.raises(grpc.RpcError) as refused:
        list(traced_channel.unary_stream(method)(b"", timeout=10, metadata=metadata))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    [span] = collector.wait_for(
        lambda span: span.attributes.get("cytosynth.request_id") == method[-4:]
    )
    assert (span.part, span.name) == ("edge", method)
    assert above == f"00-{span.trace_id}-{span.parent_id}-01"
    assert toy.calls[-1].metadata["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"
    assert span.attributes["grpc.status_code"] == "5"
    assert "patient" not in str(span.attributes)


def test_what_a_traced_edge_says_itself_still_reaches_the_client(
    traced_channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError) as refused:  # no toy: nobody is behind the edge
        call(traced_channel, LIST_JOBS, metadata=[("x-request-id", "request-8")])
    error = error_from_rpc(refused.value, "the edge")
    assert (error.code, error.request_id) == ("UNAVAILABLE", "request-8")
    assert "starting or was lost" in error.message
