"""An edge before a toy server, in plaintext and with TLS."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from cytosynth.stack.certificate_files import CertificateSet
from cytosynth.stack.certs import make_certificates
from services.edge.render import EdgeConfig, EdgeTls
from tests.support.servers.edge import (
    ToyServer,
    free_ports,
    running_edge,
    serving,
)


@pytest.fixture(scope="module")
def upstream_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def toy(upstream_port: int) -> Iterator[ToyServer]:
    toy = ToyServer()
    with serving(toy, upstream_port):
        yield toy


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, upstream_port: int) -> Iterator[EdgeConfig]:
    with running_edge(tmp_path_factory.mktemp("edge"), upstream_port) as config:
        yield config


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateSet:
    return make_certificates(tmp_path_factory.mktemp("certs"), tenants=["clinic-a", "clinic-b"])


@pytest.fixture(scope="module", params=["optional", "required"])
def tls_edge(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    upstream_port: int,
    certificates: CertificateSet,
) -> Iterator[EdgeConfig]:
    server = certificates.server
    tls = EdgeTls(server.certificate, server.key, certificates.ca)
    folder = tmp_path_factory.mktemp("tls-edge")
    mode = request.param
    with running_edge(folder, upstream_port, tls=tls, client_certificates=mode) as config:
        yield config


@pytest.fixture
def channel(edge: EdgeConfig) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        yield channel
