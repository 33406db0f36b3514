"""Closed loops, whose callers wait for answers, and open loops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from benchmarks.classifier.load.callers import (
    DEFAULT_RETRY_SECONDS,
    CallFailed,
    CallRefused,
    caller,
    requests,
)
from benchmarks.classifier.load.lean_client import LeanConnection, connect, framed
from benchmarks.classifier.load.plans import (
    NO_ANSWER,
    OK,
    RESOURCE_EXHAUSTED,
    ClosedResult,
    OpenResult,
    Phase,
    Plan,
)

Call = Callable[[int], Awaitable[object]]


async def ask(plan: Plan, cells: Sequence[bytes]) -> list[float]:
    """Probabilities of the first cell; raises CallFailed."""
    one = caller(plan.target, cells, plan.timeout_seconds)
    try:
        return one.probabilities(await one.call(0))
    finally:
        await one.close()


async def closed_loop(plan: Plan, cells: Sequence[bytes]) -> ClosedResult:
    """Callers that send a cell once the last is answered."""
    one = caller(plan.target, cells, plan.timeout_seconds)
    try:
        return await _closed(plan, one.call)
    finally:
        await one.close()


async def lean_loop(plan: Plan, cells: Sequence[bytes]) -> ClosedResult:
    """A closed loop through the cheap client."""
    connections = await connect(plan.target.address, plan.connections, plan.timeout_seconds)
    messages = [framed(request) for request in requests(plan.target, cells)]

    async def call(number: int) -> None:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        message = messages[number % len(messages)]
        least_busy(connections).call(message, lambda status, *_: answered.set_result(status))
        status = await answered
        if status == RESOURCE_EXHAUSTED:
            raise CallRefused("refused", DEFAULT_RETRY_SECONDS)
        if status != OK:
            raise CallFailed(f"gRPC status {status}")

    return await _closed(plan, call)


async def _closed(plan: Plan, call: Call) -> ClosedResult:
    latencies: list[float] = []
    failed: Counter[str] = Counter()
    num_refused = num_answered = number = 0
    begin = time.perf_counter() + plan.warmup_seconds
    end = begin + plan.seconds

    async def answered(number: int) -> None:
        """Repeats a refused call until it is answered."""
        nonlocal num_refused
        while True:
            try:
                await call(number)
                return
            except CallRefused as error:
                num_refused += begin <= time.perf_counter() <= end
                if time.perf_counter() > end + plan.timeout_seconds:
                    raise
                await asyncio.sleep(error.retry_seconds)

    async def one_caller() -> None:
        nonlocal number, num_answered
        while (sent := time.perf_counter()) < end:
            number += 1
            problem = ""
            try:
                await answered(number)
            except CallFailed as error:
                problem = str(error)
            now = time.perf_counter()
            num_answered += not problem and begin <= now <= end
            if sent >= begin and not problem:
                latencies.append((now - sent) * 1e3)
            if problem:
                failed[problem] += sent >= begin
                await asyncio.sleep(0.01)  # a server that fails at once is not called in a spin

    async def cpu_in_window() -> float:
        await asyncio.sleep(plan.warmup_seconds)
        before = time.process_time()
        await asyncio.sleep(max(0.0, end - time.perf_counter()))
        return time.process_time() - before

    cpu = asyncio.create_task(cpu_in_window())
    await asyncio.gather(*(one_caller() for _ in range(plan.callers)))
    return ClosedResult(
        num_answered, latencies, dict(+failed), num_refused, plan.seconds, await cpu
    )


def arrivals(phases: Sequence[Phase], seed: int) -> list[float]:
    """Seconds at which calls of a Poisson process are due."""
    rng = np.random.default_rng(seed)
    due: list[float] = []
    start = 0.0
    for phase in phases:
        expected = phase.calls_per_second * phase.seconds
        gaps = rng.exponential(1 / phase.calls_per_second, int(expected + 6 * expected**0.5 + 10))
        times = start + np.cumsum(gaps)
        start += phase.seconds
        due += times[times < start].tolist()
    return due


def least_busy(connections: Sequence[LeanConnection]) -> LeanConnection:
    """The connection with the fewest open calls."""
    return min(connections, key=lambda connection: connection.num_open)


async def open_loop(plan: Plan, cells: Sequence[bytes]) -> OpenResult:
    """Calls that are sent when they are due."""
    connections = await connect(plan.target.address, plan.connections, plan.timeout_seconds)
    messages = [framed(request) for request in requests(plan.target, cells)]
    due = arrivals(plan.phases, plan.seed)
    sent, latency_ms, status = due.copy(), [0.0] * len(due), [NO_ANSWER] * len(due)
    begin = time.perf_counter() + 0.1
    open_calls = len(due)
    all_answered = asyncio.Event()

    def taker(number: int) -> Callable[[int, float, float], None]:
        def take(code: int, sent_at: float, answered_at: float) -> None:
            nonlocal open_calls
            sent[number] = sent_at - begin
            latency_ms[number] = (answered_at - sent_at) * 1e3
            status[number] = code
            open_calls -= 1
            if not open_calls:
                all_answered.set()

        return take

    ends = np.cumsum([phase.seconds for phase in plan.phases])
    cpu_seconds, cpu_before = [], time.process_time()
    number = 0
    for end in ends:
        while number < len(due) and due[number] < end:
            wait = begin + due[number] - time.perf_counter()
            await asyncio.sleep(max(0.0, wait))
            now = time.perf_counter() - begin
            while number < len(due) and due[number] <= now:
                least_busy(connections).call(messages[number % len(messages)], taker(number))
                number += 1
        cpu_seconds.append(time.process_time() - cpu_before)
        cpu_before = time.process_time()
    if due:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_answered.wait(), plan.timeout_seconds + 2.0)
    return OpenResult(due, sent, latency_ms, status, float(ends[-1]), cpu_seconds)
