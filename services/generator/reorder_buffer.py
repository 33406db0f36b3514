"""Reorders images between the threads that encode them and one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.common.errors import DomainError
from services.generator.plan import SyntheticImage

_LINGER_SECONDS = 0.005
"""Time for which a reader waits to take several images at once."""


class ReorderBuffer:
    """Images that come in any order, for one reader, by index."""

    def __init__(self, first_index: int, loop: asyncio.AbstractEventLoop) -> None:
        """Expect images from ``first_index`` on; ``loop`` is the reader's."""
        self._loop, self._news = loop, asyncio.Event()
        self._next_index = self._first_index = first_index
        self.num_finished = 0
        """Images that are sampled, encoded or not, and those withheld."""
        self._num_withheld = 0
        self._early: dict[int, SyntheticImage | DomainError] = {}
        self._error: BaseException | None = None

    async def next(self) -> list[SyntheticImage]:
        """The images that come next in order; waits for at least one."""
        while not isinstance(found := self._early.get(self._next_index), SyntheticImage):
            if error := found or self._error:
                raise error
            self._news.clear()
            await self._news.wait()
        num_taken = self._next_index - self._first_index
        if self.num_finished > num_taken + len(self._early) + self._num_withheld:
            await asyncio.sleep(_LINGER_SECONDS)  # each hand-over costs a millisecond
        images = []
        while isinstance(found := self._early.get(self._next_index), SyntheticImage):
            images.append(found)
            del self._early[self._next_index]
            self._next_index += 1
        return images

    def put(self, image: SyntheticImage) -> None:
        """Add an image, on any thread."""
        self._change(lambda: self._early.update({image.index: image}))

    def fail_at(self, index: int, error: DomainError) -> None:
        """Raise ``error`` in place of one image, on any thread."""
        self._change(lambda: self._early.update({index: error}))

    def withhold(self) -> None:
        """Count an image that is sampled again, on any thread."""

        def count() -> None:
            self._num_withheld += 1

        self._change(count)

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` once no image is left, on any thread."""

        def keep() -> None:
            self._error = self._error or error

        self._change(keep)

    def _change(self, change: Callable[[], None]) -> None:
        def apply() -> None:
            change()
            self._news.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(apply)
