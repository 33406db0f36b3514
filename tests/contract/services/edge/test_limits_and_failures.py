"""Limits, repeated calls, deadlines and failures at the edge."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from services.edge.render import EdgeConfig
from tests.support.servers.edge import (
    CREATE_ADAPTER,
    LIST_JOBS,
    MAX_MESSAGE_BYTES,
    SYNTHESIZE,
    Seen,
    ToyServer,
    call,
    running_edge,
)


def test_a_message_over_the_limit_says_the_limit(toy: ToyServer, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, CREATE_ADAPTER, bytes(MAX_MESSAGE_BYTES + 1))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"larger than {MAX_MESSAGE_BYTES} bytes" in refused.value.details()
    call(channel, CREATE_ADAPTER, bytes(MAX_MESSAGE_BYTES - 1024))


@pytest.mark.parametrize(("method", "attempts"), [(LIST_JOBS, 3), (CREATE_ADAPTER, 1)])
def test_only_calls_that_change_nothing_are_asked_again(
    method: str, attempts: int, toy: ToyServer, channel: grpc.Channel
) -> None:
    def refuse(seen: Seen, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, "the replica was lost")
        raise AssertionError

    toy.answer = refuse
    with pytest.raises(grpc.RpcError) as lost:
        call(channel, method)
    assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(toy.calls) == attempts


def test_an_error_of_a_service_is_not_changed(toy: ToyServer, channel: grpc.Channel) -> None:
    def refuse(seen: Seen, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("grpc-status-details-bin", b"\x08\x03")])
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "seed: must not be negative")
        raise AssertionError

    toy.answer = refuse
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, CREATE_ADAPTER)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "seed: must not be negative"
    assert dict(refused.value.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x03"


def test_a_lost_service_is_unavailable_without_its_address(
    edge: EdgeConfig, channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as lost:
        call(channel, CREATE_ADAPTER)
    assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "try again" in lost.value.details()
    assert "127.0.0.1" not in lost.value.details()


def test_a_clients_deadline_ends_a_stream(toy: ToyServer, channel: grpc.Channel) -> None:
    toy.stream_seconds = 3.0
    began = time.monotonic()
    stream = channel.unary_stream(SYNTHESIZE)(b"", timeout=1.0)
    with pytest.raises(grpc.RpcError) as late:
        list(stream)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("seconds", [0.9, 60.0, 500_000.0])
@pytest.mark.parametrize("listener", ["port", "internal_port"])
def test_a_service_is_told_a_later_deadline_than_the_clients(
    listener: str, seconds: float, toy: ToyServer, edge: EdgeConfig
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{getattr(edge, listener)}") as channel:
        channel.unary_unary(CREATE_ADAPTER)(b"", timeout=seconds)
    told = toy.calls[-1].time_remaining
    assert told is not None
    assert seconds < told < 1.02 * seconds + 1.2


def test_without_a_deadline_none_is_made_up(toy: ToyServer, channel: grpc.Channel) -> None:
    channel.unary_unary(CREATE_ADAPTER)(b"")
    told = toy.calls[-1].time_remaining
    assert told is None or told > 1e8


def test_too_many_calls_are_told_when_to_come_back(
    toy: ToyServer, upstream_port: int, tmp_path: Path
) -> None:
    with running_edge(tmp_path, upstream_port, calls_per_second=5) as edge:
        with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            codes = []
            for _ in range(30):
                try:
                    call(channel, CREATE_ADAPTER)
                except grpc.RpcError as refused:
                    codes.append((refused.code(), refused.details()))
    assert codes
    assert {code for code, _ in codes} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "try again" in codes[0][1]
