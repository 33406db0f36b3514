"""A client that goes away stops its stream's replica, through Ray Serve.

Serve (2.60) stops a replica only if the client leaves while the proxy waits for the replica's next
message.  If the client leaves while a message is being sent to it, Serve's proxy drops the stream
and the replica continues without a reader. A client that had stopped reading always leaves so.
``stop_with_client`` has the end of the RPC cancel whatever the RPC still reads from replicas.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

_responses: ContextVar[list[Any] | None] = ContextVar("responses", default=None)


def stop_with_client(
    handler: Callable[[Any, Any], AsyncIterator[bytes]],
) -> Callable[[Any, Any], AsyncIterator[bytes]]:
    """Wraps a streaming handler of Serve's proxy; its end cancels replicas' responses."""
    _record_responses()

    async def answers(request: Any, context: Any) -> AsyncIterator[bytes]:
        responses: list[Any] = []
        _responses.set(responses)  # an RPC runs in a task, hence a context, of its own
        context.add_done_callback(lambda _: [response.cancel() for response in responses])
        async for answer in handler(request, context):
            yield answer
        responses.clear()

    return answers


def _record_responses() -> None:
    """Lets ``stop_with_client`` know the replicas' responses that an RPC reads."""
    from ray.serve._private.proxy_response_generator import ProxyResponseGenerator

    if hasattr(ProxyResponseGenerator, "records"):
        return
    plain_init = ProxyResponseGenerator.__init__

    def init(self: Any, response: Any, **options: Any) -> None:
        plain_init(self, response, **options)
        recorded = _responses.get()
        if recorded is not None:
            recorded.append(response)

    ProxyResponseGenerator.__init__ = init
    ProxyResponseGenerator.records = True
