"""One channel to the services: limits, keepalive, deadlines, retries, tenant."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

import grpc

from cytosynth.client.call_headers import CallHeaders
from cytosynth.client.errors import (
    CytosynthError,
    error_from_rpc,
    invalid_argument,
    nothing_answers,
)
from cytosynth.service_methods import SERVICES, is_unary, may_be_repeated, methods

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_UNARY_SECONDS = 60.0
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
TENANT_KEY = "x-cytosynth-tenant"

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):(\d{1,5})")

Response = TypeVar("Response")


class Connection:
    """A channel that the service clients share.

    Args:
        address: ``host:port`` of the edge.
        credentials: TLS credentials; None for plaintext (loopback).
        tenant: Caller's tenant where no client certificate names one.
        timeout_seconds: Deadline of one call; None: 60 s for a call with one answer, and
            each method's own for streams.
        bypass_proxy: Dial the address itself, whatever proxy the environment names; always so
            for loopback addresses.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tenant: str | None = None,
        timeout_seconds: float | None = None,
        bypass_proxy: bool = False,
    ) -> None:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[2]) < 65536:
            raise invalid_argument("address", f"{address!r} is not host:port", "127.0.0.1:50051")
        if timeout_seconds is not None and not 0 < timeout_seconds < 1e9:
            raise invalid_argument("timeout_seconds", "must be above 0", "60 is the default")
        self.address = address
        self.timeout_seconds = timeout_seconds
        self.metadata: tuple[tuple[str, str], ...] = ((TENANT_KEY, tenant),) if tenant else ()
        self._closed = threading.Event()
        options = _options(bypass_proxy or match[1] in ("127.0.0.1", "localhost", "[::1]"))
        if credentials is None:
            channel = grpc.insecure_channel(address, options=options)
        else:
            channel = grpc.secure_channel(address, credentials, options=options)
        self.channel = grpc.intercept_channel(channel, CallHeaders())

    def call(
        self,
        method: Callable[..., Response],
        request: Any,
        timeout_seconds: float | None = None,
    ) -> Response:
        """One request, one answer; raises ``CytosynthError``."""
        timeout = self.timeout_seconds or timeout_seconds or DEFAULT_UNARY_SECONDS
        try:
            return method(request, timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            raise self.error(error) from None
        except ValueError:
            raise self.closed_error() from None

    def check(self, seconds: float) -> None:
        """Raise ``UNAVAILABLE`` unless something answers at the address within ``seconds``."""
        ready = grpc.channel_ready_future(self.channel)
        try:
            ready.result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise nothing_answers(self.address) from None
        finally:
            ready.cancel()

    def error(self, error: grpc.RpcError) -> CytosynthError:
        """The failed call as a ``CytosynthError``."""
        return self.closed_error() if self.closed else error_from_rpc(error, self.address)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called; nothing is retried after that."""
        return self._closed.is_set()

    def pause(self, seconds: float) -> None:
        """Wait before another try; raises at once when the client is closed."""
        if self._closed.wait(seconds):
            raise self.closed_error()

    def closed_error(self) -> CytosynthError:
        """The error of a call on a closed client."""
        return CytosynthError("CANCELLED", "the client was closed")

    def close(self) -> None:
        """Cancel running calls, from any thread, and close the channel."""
        self._closed.set()
        self.channel.close()


class ServiceClient:
    """Base of the service clients: one connection, closed by ``close``."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tenant: str | None = None,
        timeout_seconds: float | None = None,
        bypass_proxy: bool = False,
    ) -> None:
        self._connection = Connection(
            address,
            credentials=credentials,
            tenant=tenant,
            timeout_seconds=timeout_seconds,
            bypass_proxy=bypass_proxy,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """``host:port`` this client talks to."""
        return self._connection.address

    def check(self, seconds: float = 5.0) -> None:
        """Raise ``UNAVAILABLE`` unless something answers at the address within ``seconds``."""
        self._connection.check(seconds)

    def close(self) -> None:
        """Cancel running calls, from any thread, and close the channel."""
        self._connection.close()


def retry_delay(num_failures: int) -> float:
    """Seconds to wait after n failures in a row: 0.2 to 5."""
    return float(min(5.0, 0.2 * 2 ** min(num_failures - 1, 10)))


def _options(bypass_proxy: bool) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.service_config", json.dumps(service_config())),
    ]
    if bypass_proxy:  # a proxy reaches neither this machine's loopback nor a cluster's inside
        options.append(("grpc.enable_http_proxy", 0))
    return options


def service_config() -> dict[str, Any]:
    """Retry policy of every unary call that may be repeated."""
    # Streams are not listed: their clients resume them where they broke off.
    names = [
        {"service": method.containing_service.full_name, "method": method.name}
        for service in SERVICES
        for method in methods(service)
        if is_unary(method) and may_be_repeated(method)
    ]
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.2s",
        "maxBackoff": "3s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {"methodConfig": [{"name": names, "retryPolicy": policy}]}
