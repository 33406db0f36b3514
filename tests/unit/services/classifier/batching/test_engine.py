"""Threads that decode and compute: shared batches, refusals, callers who go away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from services.classifier.batching.engine import BatchEngine
from services.classifier.batching.flows import Flow, RgbImage, Scores
from services.classifier.batching.schedule import Limits
from services.classifier.metrics import ServingMetrics
from services.common.errors import Cancelled, InvalidArgument, ResourceExhausted, Unavailable
from tests.support.fakes.scores import FakeNetwork, image


class HeldNetwork(FakeNetwork):
    """Computes nothing until it is let go."""

    def __init__(self, seconds: float = 0.01) -> None:
        super().__init__(seconds=seconds)
        self.started, self.go = threading.Event(), threading.Event()

    def scores(self, images: Sequence[RgbImage], size: int) -> list[Scores]:
        self.started.set()
        assert self.go.wait(30)
        return super().scores(images, size)


class Figures(ServingMetrics):
    """Remembers what it receives."""

    def __init__(self) -> None:
        self.num_refused = 0
        self.batch_sizes: list[int] = []

    def refused(self, tenant: str) -> None:
        self.num_refused += 1

    def batch_computed(self, num_images: int, waits: Sequence[float]) -> None:
        assert len(waits) == num_images and min(waits) >= 0
        self.batch_sizes.append(num_images)


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def engine(figures: Figures) -> Iterator[BatchEngine]:
    engine = BatchEngine(Limits(max_wait=0.5), figures)
    yield engine
    engine.close()


def shows(*numbers: int) -> list[Callable[[], RgbImage]]:
    return [lambda n=number: image(n) for number in numbers]


def numbers(scores: Sequence[Scores]) -> list[int]:
    return [int(each.logits[0]) for each in scores]


async def hold(engine: BatchEngine, network: HeldNetwork) -> asyncio.Future[Scores]:
    """Gives the compute thread an image on which it is held up."""
    future = engine.admit(Flow("lab", network), shows(1))[0]
    assert await asyncio.to_thread(network.started.wait, 30)
    return future


def test_images_of_several_calls_are_computed_together(
    engine: BatchEngine, figures: Figures
) -> None:
    network = HeldNetwork()

    async def run() -> list[int]:
        first = await hold(engine, network)
        others = [engine.admit(Flow("lab", network), shows(n))[0] for n in (2, 3, 4)]
        while engine.num_coming:
            await asyncio.sleep(0)
        network.go.set()
        return numbers(await asyncio.gather(first, *others))

    assert asyncio.run(run()) == [1, 2, 3, 4]
    assert network.batches == [[1], [2, 3, 4]] and network.sizes == [1, 4]
    assert figures.batch_sizes == [1, 3]


def test_each_image_of_a_call_gets_its_own_answer(engine: BatchEngine) -> None:
    async def run() -> list[int]:
        futures = engine.admit(Flow("lab", FakeNetwork()), shows(*range(100)))
        return numbers(await asyncio.gather(*futures))

    assert asyncio.run(run()) == list(range(100))


def test_an_image_that_cannot_be_decoded_fails_alone(engine: BatchEngine) -> None:
    def refuse() -> RgbImage:
        raise InvalidArgument("images[1]", "is no image")

    async def run() -> list[Scores | BaseException]:
        flow = Flow("lab", FakeNetwork())
        futures = engine.admit(flow, [*shows(7), refuse, *shows(8)])
        return await asyncio.gather(*futures, return_exceptions=True)

    first, refused, last = asyncio.run(run())
    assert isinstance(first, Scores) and isinstance(last, Scores)
    assert isinstance(refused, InvalidArgument) and refused.field == "images[1]"


def test_a_batch_that_fails_does_not_end_the_service(engine: BatchEngine) -> None:
    async def ask(number: int) -> list[Scores]:
        return await asyncio.gather(*engine.admit(Flow("lab", FakeNetwork()), shows(number)))

    async def run() -> list[int]:
        with pytest.raises(MemoryError, match="no memory"):
            await ask(255)
        return numbers(await ask(3))

    assert asyncio.run(run()) == [3]
    engine.check_health()


def test_a_call_that_would_wait_too_long_is_refused_before_its_image_is_decoded(
    engine: BatchEngine, figures: Figures
) -> None:
    network = HeldNetwork(seconds=5.0)
    decoded: list[int] = []

    def decode() -> RgbImage:
        decoded.append(1)
        return image(9)

    async def run() -> None:
        future = await hold(engine, network)
        with pytest.raises(ResourceExhausted) as caught:
            engine.check_room("lab")
        with pytest.raises(ResourceExhausted, match="try again in"):
            engine.admit(Flow("lab", network), [decode])
        assert caught.value.retry_after_seconds >= 0.1
        network.go.set()
        await future
        engine.check_room("lab")

    asyncio.run(run())
    assert decoded == [] and figures.num_refused == 2


def test_images_of_a_caller_who_went_away_are_left_alone(engine: BatchEngine) -> None:
    network = HeldNetwork()

    async def run() -> None:
        first = await hold(engine, network)
        gone, stays = Flow("lab", network), Flow("lab", network)
        futures = engine.admit(gone, shows(2, 3))
        kept = engine.admit(stays, shows(4))[0]
        engine.cancel(gone)
        for future in futures:
            future.cancel()
        network.go.set()
        await asyncio.gather(first, kept)

    asyncio.run(run())
    assert network.batches == [[1], [4]] and engine.num_waiting == 0


def test_an_image_whose_deadline_has_passed_is_not_computed() -> None:
    now = [100.0]
    engine = BatchEngine(Limits(max_wait=0.5), ServingMetrics(), clock=lambda: now[0])
    network = HeldNetwork()

    async def run() -> None:
        first = await hold(engine, network)
        late = engine.admit(Flow("lab", network, deadline=101.0), shows(2))[0]
        while engine.num_coming:
            await asyncio.sleep(0)
        now[0] = 102.0
        network.go.set()
        await first
        with pytest.raises(Cancelled, match="deadline"):
            await late

    asyncio.run(run())
    engine.close()
    assert network.batches == [[1]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_is_told_to_the_health_check(engine: BatchEngine) -> None:
    class Broken(FakeNetwork):
        def scores(self, images: Sequence[RgbImage], size: int) -> list[Scores]:
            raise SystemExit

    async def run() -> None:
        engine.admit(Flow("lab", Broken()), shows(1))
        for thread in engine.threads:
            if thread.name.startswith("compute"):
                await asyncio.to_thread(thread.join, 30)

    engine.check_health()
    asyncio.run(run())
    with pytest.raises(Unavailable):
        engine.check_health()
