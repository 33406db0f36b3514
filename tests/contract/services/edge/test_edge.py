"""The edge as clients meet it: routing, identity, limits, failures. Real Envoy, real channels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cytosynth.client.errors import error_from_rpc
from cytosynth.service_methods import SERVICES
from cytosynth.stack.certificate_files import CertificateSet
from cytosynth.stack.certs import make_certificates
from services.edge.render import EdgeConfig, EdgeTls
from tests.support.servers.collector import Collector, collecting
from tests.support.servers.edge import (
    MAX_MESSAGE_BYTES,
    Seen,
    ToyServer,
    call,
    free_ports,
    running_edge,
    serving,
)

LIST_JOBS = "/cytosynth.trainer.v1.TrainerService/ListJobs"
CREATE_ADAPTER = "/cytosynth.trainer.v1.TrainerService/CreateAdapter"
SYNTHESIZE = "/cytosynth.generator.v1.GeneratorService/Synthesize"
METHOD_OF = {
    "generator": "/cytosynth.generator.v1.GeneratorService/GetCapabilities",
    "classifier": "/cytosynth.classifier.v1.ClassifierService/Classify",
    "trainer": LIST_JOBS,
}


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


def _secure(edge: EdgeConfig, certificates: CertificateSet, tenant: str | None) -> grpc.Channel:
    authority = certificates.ca.read_bytes()
    key = chain = None
    if tenant is not None:
        client = certificates.client(tenant)
        key, chain = client.key.read_bytes(), client.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority, key, chain)
    return grpc.secure_channel(f"localhost:{edge.port}", credentials)


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
