"""Lets a slow reader slow its writer down, through Ray Serve.

Serve (2.60) passes the items of a streaming call on as fast as they are made.  If a client stops
reading, the server keeps everything.  Ray can hold a generator back until its items are read, but
Serve does not ask for that.  ``bound_streams`` makes Serve's proxies ask.  The generator's front
needs no such bound, as it takes shards whole and few at a time.

Replicas must run user code in their own event loop
(``RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0``).  In a thread of its own, Serve would drain the
generator into an unbounded queue.
"""

from __future__ import annotations

from typing import Any

IN_LOOP_VARIABLE = "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"
NUM_MESSAGES = 16
"""Messages of one stream that a replica makes ahead of its reader."""

_STREAMING = ("handle_request_with_rejection", "handle_request_streaming")


def bound_streams() -> None:
    """Hold back streams that this process reads from replicas; again does nothing."""
    from ray.serve._private.request_router import replica_wrapper

    wrapper = replica_wrapper.ActorReplicaWrapper
    if getattr(wrapper, "bounds_streams", False):
        return
    plain_init = wrapper.__init__

    def init(self: Any, actor_handle: Any) -> None:
        plain_init(self, _BoundedHandle(actor_handle))

    wrapper.__init__ = init
    wrapper.bounds_streams = True


class _BoundedHandle:
    """An actor handle whose streaming methods are held back."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)
        return _BoundedMethod(method) if name in _STREAMING else method


class _BoundedMethod:
    def __init__(self, method: Any) -> None:
        self._method = method

    def options(self, **options: Any) -> Any:
        return self._method.options(_generator_backpressure_num_objects=NUM_MESSAGES, **options)
