"""Some calls run, some wait, more are refused."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import ResourceExhausted
from services.common.rpc.call_slots import CallSlots


def test_calls_wait_in_order_and_more_are_refused() -> None:
    async def try_it() -> tuple[list[int], int]:
        slots, began, let_go = CallSlots(2, 2), list[int](), asyncio.Event()

        async def call(number: int) -> None:
            async with slots.slot():
                began.append(number)
                await let_go.wait()

        calls = [asyncio.create_task(call(number)) for number in range(6)]
        done, _ = await asyncio.wait(calls, timeout=0.1)
        refused = [one.exception() for one in done]
        assert all(isinstance(error, ResourceExhausted) for error in refused)
        assert all(error.retry_after_seconds > 0 for error in refused)  # type: ignore[union-attr]
        assert began == [0, 1]
        let_go.set()
        await asyncio.gather(*calls[:4])
        return began, len(refused)

    assert asyncio.run(try_it()) == ([0, 1, 2, 3], 2)


def test_a_caller_that_leaves_while_waiting_frees_its_place() -> None:
    async def try_it() -> None:
        slots = CallSlots(1, 1)

        async def call() -> str:
            async with slots.slot():
                return "done"

        async with slots.slot():
            waiting = asyncio.create_task(call())
            await asyncio.sleep(0)
            with pytest.raises(ResourceExhausted):
                await call()
            waiting.cancel()
            await asyncio.wait([waiting])
            next_one = asyncio.create_task(call())
            await asyncio.sleep(0)
        assert await asyncio.wait_for(next_one, 1) == "done"

    asyncio.run(try_it())
