"""Where the edge sends a call."""

from __future__ import annotations

import grpc
import pytest

from cytosynth.service_methods import SERVICES
from tests.support.servers.edge import (
    LIST_JOBS,
    METHOD_OF,
    ToyServer,
    call,
)


@pytest.mark.parametrize("service", SERVICES)
def test_a_call_without_metadata_reaches_its_application(
    service: str, toy: ToyServer, channel: grpc.Channel
) -> None:
    call(channel, METHOD_OF[service])
    assert toy.calls[-1].method == METHOD_OF[service]
    assert toy.calls[-1].metadata["application"] == service


def test_a_forged_application_is_overwritten(toy: ToyServer, channel: grpc.Channel) -> None:
    call(channel, LIST_JOBS, metadata=[("application", "generator")])
    assert toy.calls[-1].metadata["application"] == "trainer"


@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Watch"])
def test_health_is_passed_on(method: str, toy: ToyServer, channel: grpc.Channel) -> None:
    assert list(channel.unary_stream(f"/{method}")(b"", timeout=10)) == [b"first", b"last"]


@pytest.mark.parametrize(
    "method", ["/ray.serve.RayServeAPIService/ListApplications", "/cytosynth.other.v1.X/Y"]
)
def test_anything_else_is_unimplemented(method: str, toy: ToyServer, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, method)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "reflection" in refused.value.details()
    assert not toy.calls
