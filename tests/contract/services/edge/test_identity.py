"""Whose call it is: certificates, tenants, the services' own listener."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cytosynth.stack.certificate_files import CertificateSet
from cytosynth.stack.certs import make_certificates
from services.edge.render import EdgeConfig
from tests.support.servers.edge import (
    LIST_JOBS,
    ToyServer,
    call,
)


def _secure(edge: EdgeConfig, certificates: CertificateSet, tenant: str | None) -> grpc.Channel:
    authority = certificates.ca.read_bytes()
    key = chain = None
    if tenant is not None:
        client = certificates.client(tenant)
        key, chain = client.key.read_bytes(), client.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority, key, chain)
    return grpc.secure_channel(f"localhost:{edge.port}", credentials)


def test_in_plaintext_everybody_is_local(toy: ToyServer, channel: grpc.Channel) -> None:
    forged = [("x-cytosynth-tenant", "clinic-a"), ("x-cytosynth-tenant", "clinic-b")]
    call(channel, LIST_JOBS, metadata=forged)
    assert toy.calls[-1].metadata["x-cytosynth-tenant"] == "local"


def test_the_services_own_listener_keeps_the_tenant(toy: ToyServer, edge: EdgeConfig) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{edge.internal_port}") as channel:
        call(channel, LIST_JOBS, metadata=[("x-cytosynth-tenant", "clinic-a")])
    assert toy.calls[-1].metadata["x-cytosynth-tenant"] == "clinic-a"
    assert toy.calls[-1].metadata["application"] == "trainer"


@pytest.mark.parametrize("tenant", ["clinic-a", "clinic-b"])
def test_the_certificate_names_the_tenant_whatever_a_header_says(
    tenant: str, toy: ToyServer, tls_edge: EdgeConfig, certificates: CertificateSet
) -> None:
    forged = [("x-cytosynth-tenant", "clinic-z"), ("x-forwarded-client-cert", "URI=clinic-z")]
    with _secure(tls_edge, certificates, tenant) as channel:
        call(channel, LIST_JOBS, metadata=forged)
    assert toy.calls[-1].metadata["x-cytosynth-tenant"] == tenant
    assert "x-forwarded-client-cert" not in toy.calls[-1].metadata


def test_without_a_certificate_one_is_local_or_refused(
    toy: ToyServer, tls_edge: EdgeConfig, certificates: CertificateSet
) -> None:
    forged = [("x-cytosynth-tenant", "clinic-a")]
    with _secure(tls_edge, certificates, None) as channel:
        if tls_edge.client_certificates == "optional":
            call(channel, LIST_JOBS, metadata=forged)
            assert toy.calls[-1].metadata["x-cytosynth-tenant"] == "local"
        else:
            with pytest.raises(grpc.RpcError) as refused:
                call(channel, LIST_JOBS, metadata=forged)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert not toy.calls


def test_another_authoritys_certificate_is_refused(
    toy: ToyServer, tls_edge: EdgeConfig, certificates: CertificateSet, tmp_path: Path
) -> None:
    stranger = make_certificates(tmp_path, tenants=["clinic-a"]).client("clinic-a")
    credentials = grpc.ssl_channel_credentials(
        certificates.ca.read_bytes(), stranger.key.read_bytes(), stranger.certificate.read_bytes()
    )
    with grpc.secure_channel(f"localhost:{tls_edge.port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, LIST_JOBS)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert not toy.calls


def test_the_servers_own_certificate_names_no_tenant(
    toy: ToyServer, tls_edge: EdgeConfig, tmp_path: Path, certificates: CertificateSet
) -> None:
    server = certificates.server  # signed by the right authority, but for no tenant
    credentials = grpc.ssl_channel_credentials(
        certificates.ca.read_bytes(), server.key.read_bytes(), server.certificate.read_bytes()
    )
    with grpc.secure_channel(f"localhost:{tls_edge.port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, LIST_JOBS)
    assert refused.value.code() in (
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAVAILABLE,  # refused in the handshake: it is no client certificate
    )
    assert not toy.calls
