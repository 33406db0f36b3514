"""A failed stream's last message: status and details for Serve's proxy."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from ray.serve.exceptions import gRPCStatusError
from ray.serve.grpc_util import RayServegRPCContext

from services.common.serve_patches.stream_end import ending

TRAILERS = [("grpc-status-details-bin", b"\x08\x05")]


class _Given:
    """What gRPC gives Serve for a call."""

    def __getattr__(self, name: str) -> Any:
        return lambda: ()


class _Proxy:
    """The proxy's own context."""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailers: Any) -> None:
        self.trailers = trailers


def _set_on(context: Any) -> None:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("there is none")
    context.set_trailing_metadata(TRAILERS)


def test_the_last_message_stops_the_proxy_with_status_and_details() -> None:
    context, proxy = RayServegRPCContext(_Given()), _Proxy()
    [last] = ending(_set_on, context)
    assert last.SerializeToString() == b""
    arrived = pickle.loads(pickle.dumps(context))
    with pytest.raises(gRPCStatusError) as stopped:
        arrived._set_on_grpc_context(proxy)
    assert stopped.value.grpc_code == grpc.StatusCode.NOT_FOUND
    assert (proxy.code, proxy.details) == (grpc.StatusCode.NOT_FOUND, "there is none")
    assert list(proxy.trailers)[-1:] == TRAILERS


@pytest.mark.parametrize(
    "variable", ["RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_ENABLE_HA_PROXY"]
)
def test_a_replica_with_a_server_of_its_own_sends_no_message(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    context = RayServegRPCContext(_Given())
    assert list(ending(_set_on, context)) == []
    assert context.code() == grpc.StatusCode.NOT_FOUND
