"""Cuts a plan into shards and streams their images in order.

A replica that dies loses no image: another one renders what is missing of its shard, bit by bit
the same.  A reader that stops holds back all work on its request: the next shard starts only
when the oldest one in flight has been taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from services.common.errors import DataLoss, Unavailable
from services.generator.plan import SynthesisPlan, SyntheticImage

_logger = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Shard:
    """The images ``first`` to ``end - 1`` of a plan.

    Attributes:
        request_id: Id of the call that the images are for, in logs.
        traceparent: The span that waits for them; empty: none.
    """

    plan: SynthesisPlan
    first: int
    end: int
    request_id: str = ""
    traceparent: str = ""


RenderShard = Callable[[Shard], AsyncGenerator[list[SyntheticImage], None]]
"""Streams a shard's images, several at a time, in order."""


def cut(plan: SynthesisPlan, shard_num_images: int) -> list[Shard]:
    """The plan from its first index on, in shards of ``shard_num_images``."""
    return [
        Shard(plan, first, min(first + shard_num_images, plan.num_images))
        for first in range(plan.first_index, plan.num_images, shard_num_images)
    ]


async def stream_in_order(
    shards: list[Shard],
    render_shard: RenderShard,
    is_loss: Callable[[BaseException], bool],
    num_in_flight: int,
    recovery_seconds: float,
) -> AsyncGenerator[SyntheticImage, None]:
    """Images of all shards in index order, ``num_in_flight`` shards at once.

    The next shard starts only when the reader has taken the oldest, so a reader that stops holds
    back all work and bounds the memory. Closing the generator ends all work.

    Raises:
        Unavailable: If a lost replica is not replaced within ``recovery_seconds``.
    """
    waiting = deque(shards)
    working: deque[_ShardInFlight] = deque()
    try:
        while waiting or working:
            while waiting and len(working) < num_in_flight:
                work = _ShardInFlight(waiting.popleft(), render_shard, is_loss, recovery_seconds)
                working.append(work)
            async for image in working[0].images():
                yield image
            working.popleft()
    finally:
        await asyncio.gather(*(work.close() for work in working))


class FairGate:
    """A semaphore for bulk shards that tenants pass in equal parts.

    Shards that do not pass wait in the front. A replica that starts later then finds work, and
    an interactive request does not queue in a replica behind bulk work.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    def set_limit(self, limit: int) -> None:
        """Change how many may be inside; shards that are inside stay."""
        self._limit = limit
        self._let_in()

    @contextlib.asynccontextmanager
    async def inside(self, tenant: str) -> AsyncGenerator[None, None]:
        """Wait for a place; the end of the block returns it."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant, place))
        self._let_in()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self._inside[tenant] -= 1
            else:
                self._waiting.remove((tenant, place))
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._inside.total() < self._limit:
            first = min(self._waiting, key=lambda entry: self._inside[entry[0]])
            self._waiting.remove(first)
            tenant, place = first
            if not place.cancelled():
                self._inside[tenant] += 1
                place.set_result(None)


class _ShardInFlight:
    """One shard, rendered in the background into a queue."""

    def __init__(
        self,
        shard: Shard,
        render_shard: RenderShard,
        is_loss: Callable[[BaseException], bool],
        recovery_seconds: float,
    ) -> None:
        self._shard, self._render_shard, self._is_loss = shard, render_shard, is_loss
        self._recovery_seconds = recovery_seconds
        self._queue: asyncio.Queue[list[SyntheticImage] | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._fill())

    async def images(self) -> AsyncGenerator[SyntheticImage, None]:
        """The shard's images in order; raises what rendering them raised."""
        while (batch := await self._queue.get()) is not None:
            for image in batch:
                yield image
        await self._task

    async def close(self) -> None:
        """End the rendering, wherever it is."""
        self._task.cancel()
        with contextlib.suppress(BaseException):
            await self._task

    async def _fill(self) -> None:
        try:
            await self._render_with_replay()
        finally:
            self._queue.put_nowait(None)

    async def _render_with_replay(self) -> None:
        next_index, end = self._shard.first, self._shard.end
        pause, alive = _FIRST_PAUSE_SECONDS, time.monotonic()
        while next_index < end:
            rest = replace(self._shard, first=next_index)
            try:
                async with contextlib.aclosing(self._render_shard(rest)) as batches:
                    async for batch in batches:
                        for image in batch:
                            if image.index != next_index:
                                raise DataLoss(f"image {image.index} came for {next_index}")
                            next_index += 1
                        self._queue.put_nowait(batch)
                        pause, alive = _FIRST_PAUSE_SECONDS, time.monotonic()
                if next_index < end:
                    raise DataLoss(f"a shard ended before image {next_index}")
            except Exception as error:
                if not self._is_loss(error):
                    raise
                if time.monotonic() - alive > self._recovery_seconds:
                    problem = "a sampler was lost and none has taken over yet"
                    raise Unavailable(problem, retry_after_seconds=5.0) from error
                _logger.warning("sampler lost at image %d, replaying: %s", next_index, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
