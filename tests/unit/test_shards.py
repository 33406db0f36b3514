"""Shards: ordered, replayed after a loss, bounded, and gone when nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from services.common.errors import DataLoss, InvalidArgument, Unavailable
from services.generator.shards import Shard, cut, stream_in_order
from services.generator.synthesize import PRESETS, DrawnImage, Execution, SynthesisPlan

PLAN = SynthesisPlan(
    "local",
    "tiny",
    "r1",
    None,
    (("monocyte", 22),),
    0,
    PRESETS["fast"],
    Execution(4, "float32"),
    "PNG",
    3,
)


class Lost(Exception):
    """A replica went away."""


class Replicas:
    """Draws shards by hand; ``trouble`` may raise before an image is delivered."""

    def __init__(self, trouble: Callable[[int], None] = lambda index: None) -> None:
        self.trouble, self.drawn, self.open, self.most_open = trouble, list[int](), 0, 0

    async def draw(self, shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            for batch in shard.plan.batches(shard.first, shard.end):
                await asyncio.sleep(0)
                for task in batch:
                    self.trouble(task.index)
                self.drawn += [task.index for task in batch]
                yield [DrawnImage(t.index, t.class_id, t.image_seed, b"", 8, 8) for t in batch]
        finally:
            self.open -= 1

    def stream(self, in_flight: int = 2, patience: float = 5.0) -> AsyncGenerator[DrawnImage, None]:
        shards = cut(PLAN, 8)
        return stream_in_order(
            shards, self.draw, lambda error: isinstance(error, Lost), in_flight, patience
        )


async def collect(images: AsyncGenerator[DrawnImage, None]) -> list[int]:
    return [image.index async for image in images]


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_order_is_kept_whatever_is_in_flight(in_flight: int) -> None:
    replicas = Replicas()
    assert asyncio.run(collect(replicas.stream(in_flight))) == list(range(3, 22))
    assert replicas.most_open <= in_flight


def test_lost_replica_is_replayed_from_the_next_image() -> None:
    losses = {5: 1, 9: 2, 20: 1}

    def trouble(index: int) -> None:
        if losses.get(index):
            losses[index] -= 1
            raise Lost

    replicas = Replicas(trouble)
    assert asyncio.run(collect(replicas.stream())) == list(range(3, 22))
    assert not any(losses.values())
    assert sorted(replicas.drawn) == list(range(3, 22))


def test_replica_that_never_comes_back_is_unavailable() -> None:
    def trouble(index: int) -> None:
        if index >= 8:
            raise Lost

    async def run() -> None:
        seen = []
        with pytest.raises(Unavailable):
            async for image in Replicas(trouble).stream(patience=0.3):
                seen.append(image.index)
        assert seen == [3, 4, 5, 6, 7]

    asyncio.run(run())


def test_other_errors_are_not_replayed() -> None:
    def trouble(index: int) -> None:
        raise InvalidArgument("x", "is wrong")

    replicas = Replicas(trouble)
    with pytest.raises(InvalidArgument):
        asyncio.run(collect(replicas.stream()))
    assert replicas.open == 0


def test_gap_is_data_loss() -> None:
    async def skips(shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        yield [DrawnImage(shard.first + 1, "monocyte", 0, b"", 8, 8)]

    with pytest.raises(DataLoss):
        asyncio.run(collect(stream_in_order(cut(PLAN, 8), skips, lambda error: False, 1, 1.0)))


def test_closing_the_stream_ends_all_work_and_a_slow_reader_bounds_it() -> None:
    replicas = Replicas()

    async def run() -> None:
        images = replicas.stream(in_flight=2)
        assert (await anext(images)).index == 3
        await asyncio.sleep(0.05)
        assert max(replicas.drawn) < 16
        await images.aclose()
        assert replicas.open == 0

    asyncio.run(run())
