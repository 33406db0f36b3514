"""Calls through the environment's proxy, and calls that bypass it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from cytosynth.client import CytosynthError, GeneratorClient
from cytosynth.service_methods import SERVICES
from cytosynth.stack.probe import probe_services
from cytosynth.stack.state import StackInfo
from tests.support.servers.edge import ToyServer
from tests.support.servers.recorded_stack import recorded_stack

DEAD_PROXY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, DEAD_PROXY)
        monkeypatch.setenv(name.upper(), DEAD_PROXY)


@pytest.fixture
def port() -> Iterator[int]:
    """A server's port on 127.0.0.1 and 127.0.0.2, which plays another machine."""
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[ToyServer()])
    port = server.add_insecure_port("127.0.0.1:0")
    assert server.add_insecure_port(f"127.0.0.2:{port}") == port
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_called_without_the_proxy(host: str, port: int) -> None:
    with GeneratorClient(f"{host}:{port}") as client:
        client.check(10.0)


def test_other_machines_are_called_through_the_proxy(port: int) -> None:
    with GeneratorClient(f"127.0.0.2:{port}") as client, pytest.raises(CytosynthError):
        client.check(1.0)


def test_services_call_each_other_without_the_proxy(port: int) -> None:
    with GeneratorClient(f"127.0.0.2:{port}", bypass_proxy=True) as client:
        client.check(10.0)


def test_the_readiness_probe_passes_by_the_proxy(
    port: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOSYNTH_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    with recorded_stack(f"127.0.0.2:{port}") as info:
        assert isinstance(info, StackInfo)
        found = probe_services(info)
    assert [service.name for service in found if service.ready] == list(SERVICES)
