"""Between the threads that draw and encode images and one reader, who takes them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.common.errors import DomainError
from services.generator.plan import DrawnImage
from services.generator.shards import Shard

_LINGER_SECONDS = 0.005
"""How long a reader waits for images that are being encoded, to take several at once."""


class Reader:
    """Between the engine's threads and one reader: images in order, or why there are no more."""

    def __init__(self, shard: Shard, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._news = loop, asyncio.Event()
        self._next_index = self._first = shard.first
        self.num_finished = 0
        """Images that are drawn, encoded or not, and those withheld."""
        self._num_withheld = 0
        self._early: dict[int, DrawnImage | DomainError] = {}
        self._error: BaseException | None = None

    async def next(self) -> list[DrawnImage]:
        """The images that come next in order; waits for at least one."""
        while not isinstance(found := self._early.get(self._next_index), DrawnImage):
            if error := found or self._error:
                raise error
            self._news.clear()
            await self._news.wait()
        num_known = self._next_index - self._first + len(self._early) + self._num_withheld
        if self.num_finished > num_known:
            await asyncio.sleep(_LINGER_SECONDS)  # each hand-over costs a millisecond
        images = []
        while isinstance(found := self._early.get(self._next_index), DrawnImage):
            images.append(found)
            del self._early[self._next_index]
            self._next_index += 1
        return images

    def put(self, image: DrawnImage) -> None:
        """Called on any thread."""
        self._tell(lambda: self._early.update({image.index: image}))

    def fail_at(self, index: int, error: DomainError) -> None:
        """There will be no image at an index; those before it come. Called on any thread."""
        self._tell(lambda: self._early.update({index: error}))

    def withheld(self) -> None:
        """An image that was drawn is drawn again. Called on any thread."""

        def count() -> None:
            self._num_withheld += 1

        self._tell(count)

    def fail(self, error: BaseException) -> None:
        """No more images will come. Called on any thread."""

        def keep() -> None:
            self._error = self._error or error

        self._tell(keep)

    def _tell(self, change: Callable[[], None]) -> None:
        def apply() -> None:
            change()
            self._news.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(apply)
