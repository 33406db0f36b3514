"""Threads that decode and compute the images of all calls.

A caller's coroutine only queues images and waits. Threads take the next image or batch from the
schedule themselves, so that a busy event loop does not hold them up.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from services.classifier.batching.flows import Flow, Network, RgbImage, Scores, Work
from services.classifier.batching.lane import Batch
from services.classifier.batching.overload import Overload
from services.classifier.batching.schedule import Limits, Schedule
from services.classifier.metrics import ServingMetrics
from services.common.errors import Cancelled, ResourceExhausted, Unavailable

_Outcome = tuple[Work, Scores | Exception]


class BatchEngine:
    """Decodes and computes images in threads that start with the first call."""

    def __init__(
        self,
        limits: Limits,
        metrics: ServingMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = Schedule(limits)
        self._metrics, self._clock = metrics, clock
        self._overload = Overload()
        self._lock = threading.Lock()
        self._to_decode = threading.Condition(self._lock)
        self._to_compute = threading.Condition(self._lock)
        self.threads: list[threading.Thread] = []
        self._is_closed = False

    @property
    def num_waiting(self) -> int:
        """Images that are in no batch yet."""
        with self._lock:
            return self._schedule.num_waiting

    @property
    def num_coming(self) -> int:
        """Images that are not decoded yet."""
        with self._lock:
            return self._schedule.num_coming

    def check_room(self, tenant: str, network: Network | None = None) -> None:
        """Refuses a call that would wait too long, before any work.

        Raises:
            ResourceExhausted: With the delay after which to try again.
        """
        with self._lock:
            refusal = self._refusal(tenant, network)
        if refusal:
            self._metrics.refused(tenant)
            raise refusal

    def admit(
        self, flow: Flow, prepares: Sequence[Callable[[], RgbImage]]
    ) -> list[asyncio.Future[Scores]]:
        """Queues the images of a new call.

        Args:
            flow: The call.
            prepares: Decoders of its images, each called once in a thread.

        Returns:
            One future per image, which fails with what its decoder or the network raised.

        Raises:
            ResourceExhausted: As ``check_room``.
        """
        loop = asyncio.get_running_loop()
        works = [Work(flow, prepare, loop.create_future()) for prepare in prepares]
        with self._lock:
            refusal = self._refusal(flow.tenant, flow.network)
            if not refusal:
                self._overload.admitted(self._clock())
                self._queue(works)
        if refusal:
            self._metrics.refused(flow.tenant)
            raise refusal
        return [work.future for work in works]

    def submit(self, flow: Flow, prepare: Callable[[], RgbImage]) -> asyncio.Future[Scores]:
        """Queues one more image of an admitted call."""
        work = Work(flow, prepare, asyncio.get_running_loop().create_future())
        with self._lock:
            self._queue([work])
        return work.future

    def cancel(self, flow: Flow) -> None:
        """Drops the images of a call that are in no batch yet."""
        with self._lock:
            self._schedule.cancel(flow)
            self._to_compute.notify_all()

    def check_health(self) -> None:
        """Raises Unavailable if a thread has ended."""
        if not self._is_closed and not all(thread.is_alive() for thread in self.threads):
            raise Unavailable("a thread of the classifier ended")

    def close(self) -> None:
        """Ends the threads after what they work on."""
        with self._lock:
            self._is_closed = True
            self._to_decode.notify_all()
            self._to_compute.notify_all()
        for thread in self.threads:
            thread.join()
        atexit.unregister(self.close)

    def _refusal(self, tenant: str, network: Network | None) -> ResourceExhausted | None:
        now = self._clock()
        excess = self._schedule.excess_wait(tenant, network, now)
        return self._overload.refusal(excess, now) if excess > 0 else None

    def _queue(self, works: Sequence[Work]) -> None:
        if not self.threads:
            self._start()
        now = self._clock()
        for work in works:
            self._schedule.submit(work, now)
        self._to_decode.notify(len(works))

    def _start(self) -> None:
        limits = self._schedule.limits
        bodies = [self._decode] * limits.num_decoders + [self._compute] * limits.num_workers
        for number, body in enumerate(bodies):
            name = f"{body.__name__.strip('_')}-{number}"
            self.threads.append(threading.Thread(target=body, name=name, daemon=True))
            self.threads[-1].start()
        # A thread inside a runtime at the end of the process would abort it.
        atexit.register(self.close)

    def _decode(self) -> None:
        while (work := self._next_to_decode()) is not None:
            started = self._clock()
            failure: Exception | None = None
            try:
                work.image = work.prepare()
            except Exception as error:
                failure = error
            with self._lock:
                now = self._clock()
                self._schedule.decoded(work, now - started, now)
                self._to_compute.notify()
            if failure is not None:
                self._deliver([(work, failure)])

    def _next_to_decode(self) -> Work | None:
        with self._lock:
            while not self._is_closed:
                self._expire()
                if (work := self._schedule.next_to_decode()) is not None:
                    return work
                self._to_decode.wait()
        return None

    def _compute(self) -> None:
        while (batch := self._next_batch()) is not None:
            started = self._clock()
            outcomes: list[_Outcome]
            seconds: float | None = None
            try:
                images = [work.image for work in batch.works if work.image is not None]
                scores = batch.lane.network.scores(images, batch.size)
                seconds = self._clock() - started
                outcomes = list(zip(batch.works, scores, strict=True))
            except Exception as error:
                outcomes = [(work, error) for work in batch.works]
            with self._lock:
                self._schedule.finished(batch, seconds)
                self._to_compute.notify()
            self._deliver(outcomes)
            waits = [started - work.submitted for work in batch.works]
            self._metrics.batch_computed(len(waits), waits)

    def _next_batch(self) -> Batch | None:
        with self._lock:
            while not self._is_closed:
                now = self._clock()
                self._expire()
                batch, seconds = self._schedule.next_batch(now)
                if batch is not None:
                    return batch
                self._to_compute.wait(seconds)
        return None

    def _expire(self) -> None:
        """Drops images whose callers no longer wait; the lock is held."""
        gone = Cancelled("the deadline of the call passed before its turn came")
        expired = self._schedule.expire(self._clock())
        if expired:
            self._deliver([(work, gone) for work in expired])

    @staticmethod
    def _deliver(outcomes: Sequence[_Outcome]) -> None:
        """Hands outcomes to the event loops of their callers."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome[0].future.get_loop(), []).append(outcome)
        for loop, own in by_loop.items():
            with suppress(RuntimeError):  # the loop was closed, and nobody waits
                loop.call_soon_threadsafe(_settle, own)


def _settle(outcomes: Sequence[_Outcome]) -> None:
    for work, outcome in outcomes:
        if work.future.done():  # the caller went away
            continue
        if isinstance(outcome, Exception):
            work.future.set_exception(outcome)
        else:
            work.future.set_result(outcome)
