"""Ends a failed stream with its status and details, through Serve.

Serve's proxy (2.60) sends what a replica's context holds only along with a message, and drops the
details of a stream that raises.  ``ending`` therefore gives one more message, which stops the
proxy before it is sent.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

Set = Callable[[Any], None]


def ending(set_on: Set, grpc_context: Any) -> Iterator[Any]:
    """What a failed stream yields last.

    A replica that is its own gRPC server (direct ingress) reads the context at the end: nothing
    is yielded there.

    Args:
        set_on: Writes the status and its details into a context.
        grpc_context: The call's context in the replica.
    """
    if _direct_ingress():
        set_on(grpc_context)
    else:
        yield _LastMessage(set_on, grpc_context)


class _LastMessage:
    """Takes a response's place; Serve serializes it after all before it."""

    def __init__(self, set_on: Set, grpc_context: Any) -> None:
        self._set_on, self._context = set_on, grpc_context

    def SerializeToString(self) -> bytes:  # noqa: N802 (a protobuf message's method)
        self._set_on(self._context)
        self._context._set_on_grpc_context = functools.partial(
            _end_in_proxy,
            self._context.code(),
            self._context.details(),
            tuple(self._context.trailing_metadata()),
        )
        return b""


def _end_in_proxy(
    code: Any, message: str, trailers: tuple[tuple[str, str | bytes], ...], grpc_context: Any
) -> None:
    """Runs in Serve's proxy: sets the status and stops the stream there."""
    from ray.exceptions import RayActorError  # only ever called inside Ray
    from ray.serve.exceptions import gRPCStatusError

    grpc_context.set_code(code)
    grpc_context.set_details(message)
    grpc_context.set_trailing_metadata(trailers)
    # Of a RayActorError the proxy logs one line, of anything else a traceback.
    raise gRPCStatusError(RayActorError(error_msg=message), code, message)


def _direct_ingress() -> bool:
    names = ("RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_ENABLE_HA_PROXY")
    return any(os.environ.get(name, "0") == "1" for name in names)
