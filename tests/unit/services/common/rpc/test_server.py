"""A replica's server: its port, health, reflection, limits and end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from cytosynth.classifier.v1 import classifier_pb2 as pb
from cytosynth.classifier.v1 import classifier_pb2_grpc
from cytosynth.service_methods import SERVICE_NAMES
from services.common.rpc import server
from services.common.rpc.handlers import bidi_stream, unary
from services.common.rpc.server import Listen, NoFreePort, ReplicaServer
from tests.support.servers.edge import free_ports

MAX_BYTES = 100_000
OWN = "cytosynth.classifier.v1.ClassifierService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Classifier(classifier_pb2_grpc.ClassifierServiceServicer):
    """Answers with what it was asked; a stream never ends by itself."""

    @unary(pb.ClassifyResponse)
    async def Classify(self, request: pb.ClassifyRequest, call: Any) -> pb.ClassifyResponse:
        return pb.ClassifyResponse(model=request.model)

    @bidi_stream
    async def ClassifyStream(
        self, requests: AsyncIterator[Any], call: Any
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        async for request in requests:
            yield pb.ClassifyStreamResponse(model=request.model)
        await asyncio.sleep(3600)


async def none_running() -> set[str]:
    return {"classifier", "trainer"}


def serve(ports: tuple[int, ...]) -> ReplicaServer:
    listen = Listen("127.0.0.1", ports)
    return ReplicaServer(Classifier(), ["classifier"], listen, MAX_BYTES, none_running)


def with_server(
    use: Callable[[ReplicaServer, grpc.aio.Channel], Coroutine[Any, Any, Any]],
) -> Any:
    async def run() -> Any:
        replica = serve(tuple(free_ports(1)))
        await replica.check()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.port}") as channel:
                return await use(replica, channel)
        finally:
            await replica.stop()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.3)


def test_each_replica_takes_the_first_free_port() -> None:
    async def three() -> None:
        ports = tuple(free_ports(2))
        replicas = [serve(ports), serve(ports)]
        assert [replica.port for replica in replicas] == list(ports)
        with pytest.raises(NoFreePort, match=f"{ports[0]}, {ports[1]}"):
            serve(ports)
        await asyncio.gather(*(replica.stop() for replica in replicas))

    asyncio.run(three())


def test_a_foreign_listener_is_left_alone() -> None:
    first, second = free_ports(2)
    with socket.create_server(("127.0.0.1", first)):

        async def one() -> int:
            replica = serve((first, second))
            await replica.stop()
            return replica.port

        assert asyncio.run(one()) == second


def test_health_tells_this_service_and_what_serve_says_of_others() -> None:
    async def ask(replica: ReplicaServer, channel: grpc.aio.Channel) -> dict[str, Any]:
        stub = health_pb2_grpc.HealthStub(channel)
        found = {}
        for name in ("", *SERVICE_NAMES):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            found[name] = answer.status
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="x"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        return found

    generator, classifier, trainer = SERVICE_NAMES
    assert with_server(ask) == {
        "": NOT_SERVING,
        generator: NOT_SERVING,
        classifier: SERVING,
        trainer: SERVING,
    }


def test_reflection_names_all_three_services() -> None:
    async def ask(replica: ReplicaServer, channel: grpc.aio.Channel) -> set[str]:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request])):
            return {each.name for each in answer.list_services_response.service}
        raise AssertionError("no answer")

    assert set(SERVICE_NAMES) < with_server(ask)


def test_a_message_over_the_limit_is_refused() -> None:
    async def ask(replica: ReplicaServer, channel: grpc.aio.Channel) -> grpc.StatusCode:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Classify(pb.ClassifyRequest(images=[bytes(MAX_BYTES)]))
        return refused.value.code()

    assert with_server(ask) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_ending_server_says_so_ends_calls_with_details_and_frees_its_port() -> None:
    async def end(replica: ReplicaServer, channel: grpc.aio.Channel) -> None:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        stream = stub.ClassifyStream(iter([pb.ClassifyStreamRequest(model="a")]))
        assert (await stream.read()).model == "a"
        stopping = asyncio.create_task(replica.stop())
        await asyncio.sleep(0.05)
        asked = health_pb2.HealthCheckRequest(service=OWN)
        assert (await health_pb2_grpc.HealthStub(channel).Check(asked)).status == NOT_SERVING
        assert (await stub.Classify(pb.ClassifyRequest(model="still"))).model == "still"
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        status = rpc_status.from_call(_Call(ended.value))
        assert status is not None
        assert any(each.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for each in status.details)
        await asyncio.wait_for(stopping, 5)
        again = serve((replica.port,))
        assert again.port == replica.port
        await again.stop()

    with_server(end)


class _Call:
    """An ended call as ``rpc_status`` reads it."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._error, name)
