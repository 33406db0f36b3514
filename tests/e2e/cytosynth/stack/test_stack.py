"""The local stack from outside: `up`, `status`, `down` and calls in between.

The applications are toys where the stack is what is tested; the last test starts the real ones.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.generator.v1 import generator_pb2, generator_pb2_grpc
from cytosynth.service_methods import SERVICE_NAMES, SERVICES
from cytosynth.stack import stack as local_stack
from cytosynth.stack.probe import open_channel
from cytosynth.stack.state import TOKEN_VARIABLE, StackFiles
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

TOYS = "tests.support.servers.toy_apps:build_apps"
START_SECONDS = 240.0
READY_SECONDS = 75.0
IDLE_BYTES = 3.5e9

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home folder, to see that nothing is left in it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def stack(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_stack.StackInfo]:
    state_dir = tmp_path_factory.mktemp("stack") / "with a long name" / "state"
    info = local_stack.up(0, state_dir=state_dir, timeout_seconds=START_SECONDS, apps=TOYS)
    yield info
    local_stack.down(state_dir)


@pytest.fixture
def channel(stack: local_stack.StackInfo) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(stack.address) as channel:
        yield channel


def _left(info: local_stack.StackInfo) -> list[int]:
    """Every process descended from the stack, found without the code under test."""
    token = f"{TOKEN_VARIABLE}={StackFiles(info.state_dir).token}".encode()
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            in_session = os.getsid(process.pid) == info.pid
        except OSError:
            continue
        if process.info["status"] != psutil.STATUS_ZOMBIE and (token in environment or in_session):
            found.append(process.pid)
    return found


def _children(info: local_stack.StackInfo, name: str) -> list[psutil.Process]:
    children = psutil.Process(info.pid).children(recursive=True)
    return [process for process in children if process.name() == name]


def test_a_plain_client_reaches_all_services_at_one_address(channel: grpc.Channel) -> None:
    generator = generator_pb2_grpc.GeneratorServiceStub(channel)
    classifier = classifier_pb2_grpc.ClassifierServiceStub(channel)
    trainer = trainer_pb2_grpc.TrainerServiceStub(channel)
    counts = [generator_pb2.ClassCount(class_id="myeloblast", num_images=5)]
    stream = generator.Synthesize(
        generator_pb2.SynthesizeRequest(class_counts=counts),
        timeout=30,
        metadata=[("x-cytosynth-tenant", "clinic-a"), ("application", "trainer")],
    )
    assert [(image.index, image.class_id) for image in stream] == [(i, "local") for i in range(5)]
    requests = iter([classifier_pb2.ClassifyStreamRequest()] * 3)
    assert len(list(classifier.ClassifyStream(requests, timeout=30))) == 3
    uploads = iter([trainer_pb2.UploadDatasetRequest()] * 3)
    assert trainer.UploadDataset(uploads, timeout=30) == trainer_pb2.UploadDatasetResponse()


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(SERVICE_NAMES) | {"grpc.health.v1.Health"} <= set(database.get_services())
    found = database.FindFileContainingSymbol("cytosynth.trainer.v1.TrainerService")
    assert found.name == "cytosynth/trainer/v1/trainer.proto"
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answer = next(ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=30))
    assert set(SERVICE_NAMES) <= {found.name for found in answer.list_services_response.service}


@pytest.mark.parametrize("service", ["", *SERVICE_NAMES])
def test_health_says_serving(service: str, channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert health.Check(request, timeout=30).status == serving
    assert next(iter(health.Watch(request, timeout=30))).status == serving


def test_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as unknown:
        health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="nobody"), timeout=30
        )
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("megabytes", "fits"), [(31, True), (33, False)])
def test_a_message_over_the_limit_is_refused(
    megabytes: int, fits: bool, stack: local_stack.StackInfo
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(stack.address, options) as channel:
        classifier = classifier_pb2_grpc.ClassifierServiceStub(channel)
        image = classifier_pb2.ClassifyRequest(images=[bytes(megabytes * 1024 * 1024)])
        if fits:
            assert classifier.Classify(image, timeout=60) == classifier_pb2.ClassifyResponse()
        else:
            with pytest.raises(grpc.RpcError) as refused:
                classifier.Classify(image, timeout=60)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "send fewer or smaller images" in refused.value.details()


def test_status_says_what_is_true(stack: local_stack.StackInfo) -> None:
    status = local_stack.status(stack.state_dir)
    assert status.state == "running"
    assert [service.name for service in status.services if service.ready] == list(SERVICES)
    assert status.info is not None
    assert status.info.address == stack.address
    assert status.num_processes == len(_left(stack))
    assert 2e8 < status.memory_bytes < IDLE_BYTES


def test_a_second_up_says_where_the_first_is(stack: local_stack.StackInfo) -> None:
    with pytest.raises(local_stack.AlreadyRunning, match=stack.address) as already:
        local_stack.up(0, state_dir=stack.state_dir, apps=TOYS)
    assert already.value.info.pid == stack.pid
    assert local_stack.status(stack.state_dir).state == "running"


def test_a_taken_port_is_named_with_a_free_one(
    stack: local_stack.StackInfo, tmp_path: Path
) -> None:
    with pytest.raises(local_stack.PortTaken, match=f"Port {stack.port} .*envoy") as taken:
        local_stack.up(stack.port, state_dir=tmp_path, apps=TOYS)
    assert f"--port {taken.value.free_port}" in str(taken.value)
    socket.create_server(("127.0.0.1", taken.value.free_port)).close()
    assert local_stack.status(tmp_path).state == "stopped"


def test_plaintext_stays_on_loopback(tmp_path: Path) -> None:
    with pytest.raises(local_stack.StackError, match="--tls"):
        local_stack.up(0, host="0.0.0.0", state_dir=tmp_path, apps=TOYS)


def test_nobody_gets_past_the_edge_from_the_network(stack: local_stack.StackInfo) -> None:
    upstream = StackFiles(stack.state_dir).envoy_config.read_text()
    listening = {
        connection.laddr.port: connection.laddr.ip.removeprefix("::ffff:")
        for process in psutil.Process(stack.pid).children(recursive=True)
        if "ray::" in " ".join(process.cmdline())
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and f": {connection.laddr.port} " in upstream
    }
    assert list(listening.values()) == ["127.0.0.1"] * len(SERVICES)


def test_a_lost_edge_comes_back(stack: local_stack.StackInfo) -> None:
    (envoy,) = _children(stack, "envoy")
    envoy.kill()
    deadline = time.monotonic() + 60
    while local_stack.status(stack.state_dir).state != "running":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert [process.pid for process in _children(stack, "envoy")] != [envoy.pid]


def test_a_lost_front_ends_its_streams_and_comes_back(stack: local_stack.StackInfo) -> None:
    with grpc.insecure_channel(stack.address) as channel:
        stub = generator_pb2_grpc.GeneratorServiceStub(channel)
        request = generator_pb2.SynthesizeRequest()
        request.class_counts.add(class_id="monocyte", num_images=100_000)
        stream = stub.Synthesize(request, timeout=120)
        assert next(stream).index == 0
        children = psutil.Process(stack.pid).children(recursive=True)
        (front,) = [one for one in children if "ToyGenerator" in " ".join(one.cmdline())]
        front.kill()
        with pytest.raises(grpc.RpcError) as lost:
            list(stream)
        # Envoy resets a stream that has begun; HTTP/2 has no word for UNAVAILABLE there.
        assert lost.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
        refusals = []
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                stub.GetCapabilities(generator_pb2.GetCapabilitiesRequest(), timeout=10)
                break
            except grpc.RpcError as refused:
                refusals.append((refused.code(), refused.details()))
                time.sleep(0.2)
        else:
            pytest.fail(f"the front did not come back: {refusals[-1:]}")
    assert {code for code, _ in refusals} <= {grpc.StatusCode.UNAVAILABLE}
    assert all("try again" in details for _, details in refusals)


def test_nothing_is_left_in_the_home_folder(stack: local_stack.StackInfo, home: Path) -> None:
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_another_stack_with_tls_runs_beside_it_and_leaves_nothing(
    stack: local_stack.StackInfo, tmp_path: Path
) -> None:
    info = local_stack.up(
        0,
        tls=True,
        client_certificates="required",
        state_dir=tmp_path,
        timeout_seconds=START_SECONDS,
        apps=TOYS,
    )
    try:
        assert local_stack.status(stack.state_dir).state == "running"
        assert local_stack.status(tmp_path).state == "running"
        with open_channel(info) as channel:
            assert set(SERVICE_NAMES) <= set(
                ProtoReflectionDescriptorDatabase(channel).get_services()
            )
        with (
            grpc.insecure_channel(info.address) as plaintext,
            pytest.raises(grpc.RpcError) as refused,
        ):
            trainer_pb2_grpc.TrainerServiceStub(plaintext).ListJobs(
                trainer_pb2.ListJobsRequest(), timeout=10
            )
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        os.kill(info.pid, signal.SIGKILL)
        time.sleep(1)
        assert local_stack.status(tmp_path).state in ("broken", "stopped")
    finally:
        local_stack.down(tmp_path)
    assert _left(info) == []
    assert info.runtime_dir is not None
    assert not info.runtime_dir.exists()
    assert local_stack.status(tmp_path).state == "stopped"
    assert local_stack.down(tmp_path) is False
    assert local_stack.status(stack.state_dir).state == "running"


def test_an_application_that_cannot_start_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(local_stack.StartupFailed, match="has no coffee"):
        local_stack.up(
            0,
            state_dir=tmp_path,
            timeout_seconds=START_SECONDS,
            apps="tests.support.servers.toy_apps:build_broken_apps",
        )
    assert local_stack.status(tmp_path).state == "stopped"
    assert local_stack.status(tmp_path).num_processes == 0


def test_down_ends_every_process(stack: local_stack.StackInfo) -> None:
    assert _left(stack)
    assert local_stack.down(stack.state_dir) is True
    assert _left(stack) == []
    assert local_stack.status(stack.state_dir).state == "stopped"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((stack.host, stack.port), timeout=5)


def test_the_real_services_are_ready_in_time_and_small(home: Path, tmp_path: Path) -> None:
    quiet = os.getloadavg()[0] < 0.5 * (os.cpu_count() or 1)
    began = time.monotonic()
    info = local_stack.up(0, state_dir=tmp_path, timeout_seconds=START_SECONDS)
    seconds = time.monotonic() - began
    try:
        status = local_stack.status(tmp_path)
        assert status.state == "running", status.detail
        assert status.memory_bytes < IDLE_BYTES
        assert seconds < (READY_SECONDS if quiet else START_SECONDS)
    finally:
        local_stack.down(tmp_path)
    assert _left(info) == []
