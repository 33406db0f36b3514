"""Runs asyncio code on a clock that jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Like ``asyncio.run``; ``loop.time()`` starts at 0 and counts virtual seconds.

    Threads and sockets must not be waited for: the clock would run away from them.

    Raises:
        RuntimeError: If all tasks wait and no timer is left to end it.
    """
    selector = _JumpingSelector()
    loop = _VirtualLoop(selector)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class _JumpingSelector(selectors.DefaultSelector):
    """Selector that advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("everything waits, and no timer is set")
            self.now += max(0.0, timeout)
        return events


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, selector: _JumpingSelector) -> None:
        super().__init__(selector)
        self._virtual = selector

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now
