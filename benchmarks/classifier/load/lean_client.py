"""A cheap gRPC client over HTTP/2, for open loops.

Requests are bytes made before, and answers are read for their status only. Ten times a server's
capacity can therefore be offered from the machine that it runs on.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from benchmarks.classifier.load.grpc_status import grpc_status
from benchmarks.classifier.load.plans import NO_ANSWER

METHOD = "/cytosynth.classifier.v1.ClassifierService/Classify"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8, 0x9,
)  # fmt: skip
_END_STREAM, _END_HEADERS, _ACK, _PADDED, _PRIORITY = 0x1, 0x4, 0x1, 0x8, 0x20
_MAX_FRAME_BYTES = 16_384  # what every peer takes
_DEFAULT_WINDOW_BYTES = 65_535
_LARGEST_WINDOW_BYTES = 2**31 - 1
_UNAVAILABLE, _CANCELLED = 14, 1
_CONNECT_SECONDS = 20.0

OnAnswer = Callable[[int, float, float], None]
"""Called with the status, and the times of sending and answer (``time.perf_counter``)."""


class LeanConnection(asyncio.Protocol):
    """One HTTP/2 connection without TLS.

    Args:
        authority: ``host:port`` of the server.
        timeout_seconds: Deadline that the server is told.
    """

    def __init__(self, authority: str, timeout_seconds: float) -> None:
        self._headers = _header_block(authority, timeout_seconds)
        self._streams: dict[int, tuple[OnAnswer, float]] = {}
        self._waiting: deque[tuple[list[bytes], int, OnAnswer]] = deque()
        self._next_stream = 1
        self._window = self._stream_window = _DEFAULT_WINDOW_BYTES
        self._max_streams = 100
        self._buffer = bytearray()
        self._block = b""
        self._transport: asyncio.Transport | None = None
        self.ready = asyncio.Event()

    @property
    def num_open(self) -> int:
        """Calls that are sent or wait to be sent."""
        return len(self._streams) + len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # No dynamic header table, no pushes, and no limit to what the server may send.
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _LARGEST_WINDOW_BYTES)
        grow = struct.pack(">I", _LARGEST_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, grow)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        lost = [each for each, _ in self._streams.values()]
        lost += [each for _, _, each in self._waiting]
        self._streams.clear()
        self._waiting.clear()
        self._transport = None
        now = time.perf_counter()
        for on_answer in lost:
            on_answer(NO_ANSWER, now, now)

    def call(self, message: bytes, on_answer: OnAnswer) -> None:
        """Sends one request; ``message`` is what ``framed`` made."""
        if self._transport is None:
            now = time.perf_counter()
            on_answer(NO_ANSWER, now, now)
            return
        parts = [
            message[start : start + _MAX_FRAME_BYTES]
            for start in range(0, len(message), _MAX_FRAME_BYTES)
        ]
        self._waiting.append((parts, len(message), on_answer))
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._max_streams:
            parts, size, on_answer = self._waiting[0]
            if size > self._stream_window:
                raise ValueError("the server takes no message of this size in one piece")
            if size > self._window or self._transport is None:
                return
            self._waiting.popleft()
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            self._window -= size
            frames = [_frame(_HEADERS, _END_HEADERS, stream, self._headers)]
            frames += [_frame(_DATA, 0, stream, part) for part in parts[:-1]]
            frames.append(_frame(_DATA, _END_STREAM, stream, parts[-1]))
            self._streams[stream] = (on_answer, time.perf_counter())
            self._transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        position = 0
        while len(self._buffer) - position >= 9:
            length = int.from_bytes(self._buffer[position : position + 3], "big")
            end = position + 9 + length
            if len(self._buffer) < end:
                break
            kind, flags = self._buffer[position + 3], self._buffer[position + 4]
            stream = int.from_bytes(self._buffer[position + 5 : position + 9], "big")
            self._take(kind, flags, stream & 0x7FFF_FFFF, bytes(self._buffer[position + 9 : end]))
            position = end
        del self._buffer[:position]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind in (_HEADERS, _CONTINUATION):
            self._take_headers(kind, flags, stream, payload)
        elif kind == _DATA:
            if flags & _END_STREAM:
                self._answer(stream, NO_ANSWER)
        elif kind == _RST_STREAM:
            code = int.from_bytes(payload, "big")
            self._answer(stream, _CANCELLED if code == 8 else _UNAVAILABLE)
        elif kind == _SETTINGS and not flags & _ACK:
            for number, value in struct.iter_unpack(">HI", payload):
                if number == 3:
                    self._max_streams = value
                elif number == 4:
                    self._stream_window = value
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
            self.ready.set()
            self._send_waiting()
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send_waiting()
        elif kind == _GOAWAY:
            self._transport.close()

    def _take_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY:
                payload = payload[5:]
            self._block = payload
            self._ends = bool(flags & _END_STREAM)
        else:
            self._block += payload
        if flags & _END_HEADERS and self._ends:
            status = grpc_status(self._block)
            self._answer(stream, _UNAVAILABLE if status is None else status)

    def _answer(self, stream: int, status: int) -> None:
        call = self._streams.pop(stream, None)
        if call is not None:
            call[0](status, call[1], time.perf_counter())
            self._send_waiting()


async def connect(address: str, num: int, timeout_seconds: float) -> list[LeanConnection]:
    """Opens connections and waits until the server has said what it takes."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(num):
        _, connection = await loop.create_connection(
            lambda: LeanConnection(address, timeout_seconds), host, int(port)
        )
        try:
            await asyncio.wait_for(connection.ready.wait(), _CONNECT_SECONDS)
        except TimeoutError:
            raise ConnectionError(f"{address} does not answer as an HTTP/2 server") from None
        made.append(connection)
    return made


def framed(message: bytes) -> bytes:
    """A serialized message as gRPC sends it, uncompressed."""
    return struct.pack(">BI", 0, len(message)) + message


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header_block(authority: str, timeout_seconds: float) -> bytes:
    fields = (
        (":path", METHOD),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", f"{round(timeout_seconds * 1000)}m"),
    )
    block = bytes([0x80 | 3, 0x80 | 6])  # :method POST, :scheme http
    return block + b"".join(
        b"\x00" + _plain(name.encode()) + _plain(value.encode()) for name, value in fields
    )


def _plain(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text
