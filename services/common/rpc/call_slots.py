"""Bounded concurrency of calls: some run, some wait, more are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.common.errors import ResourceExhausted

RETRY_SECONDS = 2.0


class CallSlots:
    """Slots for calls of one replica, in the order of arrival."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        """Makes ``max_running`` slots, for which ``max_waiting`` calls may wait."""
        self._running = asyncio.Semaphore(max_running)
        self._num_waiting, self._max_waiting = 0, max_waiting

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds a slot, for which it may have to wait.

        Raises:
            ResourceExhausted: If too many calls wait already.
        """
        if self._running.locked() and self._num_waiting >= self._max_waiting:
            raise ResourceExhausted(
                "the service is busy and its queue is full", "try again later", RETRY_SECONDS
            )
        self._num_waiting += 1
        try:
            await self._running.acquire()
        finally:
            self._num_waiting -= 1
        try:
            yield
        finally:
            self._running.release()
