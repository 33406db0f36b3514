"""Classification of images that come one by one, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from services.classifier.batching.flows import Flow
from services.classifier.classify import Classified, Classifying, Picture, Wanted
from services.classifier.loaded_model import LoadedModel

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ImageStream:
    """Images of one stream, which take turns with other calls."""

    def __init__(
        self, classifying: Classifying, model: LoadedModel, deadline: float | None, wanted: Wanted
    ) -> None:
        """Starts without images.

        Args:
            classifying: What answers them.
            model: Classifier to ask, the same for all of them.
            deadline: Monotonic seconds after which the caller no longer waits, or None.
            wanted: What is asked for.
        """
        self._classifying, self._model, self._wanted = classifying, model, wanted
        self._flow = Flow(model.tenant, model, deadline)
        self._num_started = 0

    def start(self, data: bytes) -> asyncio.Future[Classified]:
        """Queues an image.

        Returns:
            A future that fails with InvalidArgument if the image is refused.

        Raises:
            ResourceExhausted: If the first image would wait too long.
        """
        picture = Picture(data, f"image (message {self._num_started})")
        prepare = partial(picture.prepare, self._model, self._classifying.limits)
        engine = self._classifying.engine
        if self._num_started:
            scores = engine.submit(self._flow, prepare)
        else:
            scores = engine.admit(self._flow, [prepare])[0]
        self._num_started += 1

        async def answer() -> Classified:
            found = await asyncio.gather(scores, return_exceptions=True)
            return await self._classifying.answer(
                self._flow, self._model, [picture], found, self._wanted
            )

        return asyncio.create_task(answer())

    def close(self) -> None:
        """Leaves the images alone that are not computed yet."""
        self._classifying.engine.cancel(self._flow)


async def windowed(
    items: AsyncIterator[_Item],
    start: Callable[[_Item], Awaitable[asyncio.Future[_Result]]],
    window: int,
) -> AsyncGenerator[_Result, None]:
    """Works on several items of a stream; yields results in order.

    No more items are read while ``window`` results wait to be taken, so that a reader who stops
    holds the sender back.

    Args:
        items: The stream.
        start: Starts the work on an item and gives the future of its result.
        window: Most items in flight.

    Raises:
        Exception: What an item, ``start`` or a result raised, after the results before it.
    """
    room = asyncio.Semaphore(window)
    started: asyncio.Queue[asyncio.Future[_Result] | None] = asyncio.Queue()
    failure: list[Exception] = []

    async def read() -> None:
        try:
            await room.acquire()
            async for item in items:
                started.put_nowait(await start(item))
                await room.acquire()
        except Exception as error:
            failure.append(error)
        finally:
            started.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (result := await started.get()) is not None:
            yield await result
            room.release()
        if failure:
            raise failure[0]
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        while not started.empty():
            if (left := started.get_nowait()) is not None:
                left.cancel()
