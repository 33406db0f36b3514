"""Several items of a stream in flight: order, backpressure, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.classifier.streams import windowed


class Work:
    """Items whose results the test gives."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.futures: list[asyncio.Future[int]] = []

    async def items(self) -> AsyncIterator[int]:
        for number in range(self.count):
            yield number

    async def start(self, number: int) -> asyncio.Future[int]:
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Lets the others run until something holds; fails after a while."""
        for _ in range(1000):
            if holds():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never held")


def test_results_come_in_order_whatever_is_done_first() -> None:
    async def run() -> list[int]:
        work = Work(4)
        results = windowed(work.items(), work.start, 4)
        first = asyncio.ensure_future(anext(results))
        await work.until(lambda: len(work.futures) == 4)
        for number in (3, 1, 2, 0):
            work.futures[number].set_result(number)
        return [await first, *[each async for each in results]]

    assert asyncio.run(run()) == [0, 1, 2, 3]


def test_a_reader_who_stops_holds_the_sender_back() -> None:
    async def run() -> None:
        work = Work(100)
        results = windowed(work.items(), work.start, 3)
        first = asyncio.ensure_future(anext(results))
        await work.until(lambda: len(work.futures) == 3)
        for future in work.futures:
            future.set_result(0)
        await first
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(work.futures) == 3
        second = asyncio.ensure_future(anext(results))
        await work.until(lambda: len(work.futures) == 4)
        await second
        await results.aclose()

    asyncio.run(run())


def test_a_failure_follows_the_results_before_it_and_cancels_those_after_it() -> None:
    async def run() -> None:
        work = Work(3)
        results = windowed(work.items(), work.start, 3)
        first = asyncio.ensure_future(anext(results))
        await work.until(lambda: len(work.futures) == 3)
        work.futures[1].set_exception(ValueError("the second"))
        work.futures[0].set_result(0)
        assert await first == 0
        with pytest.raises(ValueError, match="the second"):
            await anext(results)
        assert work.futures[2].cancelled()

    asyncio.run(run())


def test_a_stream_that_breaks_off_is_told_after_its_results() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 0
        raise ConnectionError("cut off")

    async def run() -> None:
        work = Work(0)
        results = windowed(broken(), work.start, 3)
        first = asyncio.ensure_future(anext(results))
        await work.until(lambda: len(work.futures) == 1)
        work.futures[0].set_result(7)
        assert await first == 7
        with pytest.raises(ConnectionError, match="cut off"):
            await anext(results)

    asyncio.run(run())


def test_a_stream_that_is_closed_leaves_no_work_behind() -> None:
    async def run() -> None:
        work = Work(10)
        results = windowed(work.items(), work.start, 2)
        first = asyncio.ensure_future(anext(results))
        await work.until(lambda: len(work.futures) == 2)
        work.futures[0].set_result(0)
        await first
        await results.aclose()
        assert work.futures[1].cancelled()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_an_empty_stream_has_no_results() -> None:
    async def run() -> list[int]:
        work = Work(0)
        return [each async for each in windowed(work.items(), work.start, 2)]

    assert asyncio.run(run()) == []
