"""Callers of a closed loop, by grpc.aio or aiohttp."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import aiohttp
import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from benchmarks.classifier.load.lean_client import METHOD
from benchmarks.classifier.load.plans import Target
from cytosynth.classifier.v1 import classifier_pb2 as pb


class CallFailed(Exception):
    """A call was not answered with probabilities."""


class CallRefused(CallFailed):
    """A server has too much to do.

    Attributes:
        retry_seconds: Delay after which it asks to be called again.
    """

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


DEFAULT_RETRY_SECONDS = 0.05


class Caller(Protocol):
    """Sends cells of a prepared list to one server."""

    async def call(self, number: int) -> bytes:
        """Sends one cell; returns the answer's bytes.

        Raises:
            CallRefused: If the server asks to be called later.
            CallFailed: If it fails.
        """

    def probabilities(self, answer: bytes) -> list[float]:
        """Probabilities in an answer, in order of class ids."""

    async def close(self) -> None:
        """Closes connections."""


def requests(target: Target, cells: Sequence[bytes]) -> list[bytes]:
    """Serialized gRPC requests, one for each cell."""
    return [
        pb.ClassifyRequest(model=target.model, images=[cell]).SerializeToString() for cell in cells
    ]


class GrpcCaller:
    """Classify through grpc.aio, over one channel for every few callers."""

    def __init__(self, target: Target, cells: Sequence[bytes], timeout_seconds: float) -> None:
        self._requests, self._timeout = requests(target, cells), timeout_seconds
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channels = [grpc.aio.insecure_channel(target.address, options) for _ in range(4)]
        self._methods = [channel.unary_unary(METHOD) for channel in self._channels]

    async def call(self, number: int) -> bytes:
        method = self._methods[number % len(self._methods)]
        request = self._requests[number % len(self._requests)]
        try:
            answer: bytes = await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            message = f"{error.code().name}: {error.details()}"
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise CallRefused(message, retry_seconds(error.trailing_metadata())) from None
            raise CallFailed(message) from None
        return answer

    def probabilities(self, answer: bytes) -> list[float]:
        response = pb.ClassifyResponse.FromString(answer)
        [classification] = response.classifications
        found = {each.class_id: each.probability for each in classification.probabilities}
        return [found[class_id] for class_id in sorted(found)]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def retry_seconds(metadata: Iterable[tuple[str, str | bytes]] | None) -> float:
    """Delay that a refusal's ``RetryInfo`` asks for."""
    details = dict(metadata or ()).get("grpc-status-details-bin", b"")
    status = status_pb2.Status.FromString(details if isinstance(details, bytes) else b"")
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return DEFAULT_RETRY_SECONDS


class HttpCaller:
    """POST of a PNG through aiohttp, over kept connections."""

    def __init__(self, target: Target, cells: Sequence[bytes], timeout_seconds: float) -> None:
        self._target = target
        self._bodies = [_body(target, cell) for cell in cells]
        self._headers = dict(target.headers)
        if target.form_field:
            self._headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            trust_env=False,
        )

    async def call(self, number: int) -> bytes:
        body = self._bodies[number % len(self._bodies)]
        try:
            async with self._session.post(
                self._target.address, data=body, headers=self._headers
            ) as response:
                answer: bytes = await response.read()
                if response.status != 200:
                    said = answer[:200].decode(errors="replace")
                    if response.status in (429, 503):
                        wait = response.headers.get("Retry-After", DEFAULT_RETRY_SECONDS)
                        raise CallRefused(f"HTTP {response.status}: {said}", float(wait))
                    raise CallFailed(f"HTTP {response.status}: {said}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CallFailed(f"{type(error).__name__}: {error}") from None
        return answer

    def probabilities(self, answer: bytes) -> list[float]:
        if self._target.answer == "triton":
            return triton_floats(answer)
        found: Any = json.loads(answer)
        while isinstance(found, dict):
            [found] = found.values()
        return [float(value) for value in (found[0] if isinstance(found[0], list) else found)]

    async def close(self) -> None:
        await self._session.close()


_BOUNDARY = "cell-of-the-benchmark"


def _body(target: Target, cell: bytes) -> bytes:
    if not target.form_field:
        return cell
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{target.form_field}"; '
        'filename="cell.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    return head.encode() + cell + f"\r\n--{_BOUNDARY}--\r\n".encode()


def triton_floats(answer: bytes) -> list[float]:
    """Numbers in Triton's answer, JSON or binary."""
    text, _, rest = answer.partition(b"}]}")
    output = json.loads(text + b"}]}")["outputs"][0]
    if "data" in output:
        return [float(value) for value in output["data"]]
    return list(struct.unpack(f"<{len(rest) // 4}f", rest))


def caller(target: Target, cells: Sequence[bytes], timeout_seconds: float) -> Caller:
    """The caller of a target's kind."""
    kind = GrpcCaller if target.kind == "grpc" else HttpCaller
    return kind(target, cells, timeout_seconds)
