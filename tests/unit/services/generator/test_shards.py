"""Shards: ordered, replayed after a loss, bounded, and ended with their reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from itertools import groupby

import pytest

from services.common.errors import DataLoss, InvalidArgument, Unavailable
from services.generator.config import GeneratorSettings
from services.generator.plan import Execution, SynthesisPlan, SyntheticImage
from services.generator.presets import PRESETS
from services.generator.shards import FairGate, Shard, cut, stream_in_order

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
    first_index=3,
)


def by_four(images: list[SyntheticImage]) -> list[list[SyntheticImage]]:
    """Images as they come: four indices together."""
    return [list(group) for _, group in groupby(images, lambda image: image.index // 4)]


class Lost(Exception):
    """A replica went away."""


class Replicas:
    """Renders shards by hand; ``trouble`` may raise before an image is delivered."""

    def __init__(self, trouble: Callable[[int], None] = lambda index: None) -> None:
        self.trouble, self.rendered, self.open, self.most_open = trouble, list[int](), 0, 0

    async def render(self, shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            classes = shard.plan.classes_by_index(shard.first, shard.end)
            for batch in by_four([SyntheticImage(i, c, 0, b"", 8, 8) for i, c in classes]):
                await asyncio.sleep(0)
                for image in batch:
                    self.trouble(image.index)
                self.rendered += [image.index for image in batch]
                yield batch
        finally:
            self.open -= 1

    def stream(
        self, in_flight: int = 2, patience: float = 5.0
    ) -> AsyncGenerator[SyntheticImage, None]:
        shards = cut(PLAN, 8)
        return stream_in_order(
            shards, self.render, lambda error: isinstance(error, Lost), in_flight, patience
        )


async def collect(images: AsyncGenerator[SyntheticImage, None]) -> list[int]:
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
    assert sorted(replicas.rendered) == list(range(3, 22))


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
    async def skips(shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        yield [SyntheticImage(shard.first + 1, "monocyte", 0, b"", 8, 8)]

    with pytest.raises(DataLoss):
        asyncio.run(collect(stream_in_order(cut(PLAN, 8), skips, lambda error: False, 1, 1.0)))


def test_closing_the_stream_ends_all_work_and_a_slow_reader_bounds_it() -> None:
    replicas = Replicas()

    async def run() -> None:
        images = replicas.stream(in_flight=2)
        assert (await anext(images)).index == 3
        await asyncio.sleep(0.05)
        assert max(replicas.rendered) < 3 + 2 * 8, "two shards in flight"
        await images.aclose()
        assert replicas.open == 0

    asyncio.run(run())


def test_a_reader_that_stops_holds_back_all_but_the_shards_in_flight() -> None:
    settings, replicas = GeneratorSettings(), Replicas()
    plan = replace(PLAN, class_counts=(("monocyte", 5_000),), first_index=0)
    size = settings.generator_shard_num_images
    in_flight = settings.generator_shards_per_replica * settings.generator_max_replicas

    async def run() -> None:
        shards = cut(plan, size)
        images = stream_in_order(shards, replicas.render, lambda error: False, in_flight, 1.0)
        num_taken = 0
        for num_shards_read in (0, 1, 10):
            while num_taken <= num_shards_read * size:
                assert (await anext(images)).index == num_taken
                num_taken += 1
            await asyncio.sleep(0.05)
            assert len(replicas.rendered) == (num_shards_read + in_flight) * size
        await images.aclose()

    asyncio.run(run())


class Visitors:
    """Shards that go through a gate and stay until told to leave."""

    def __init__(self, gate: FairGate) -> None:
        self.gate, self.inside = gate, list[str]()
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *tenants: str) -> None:
        self.tasks += [asyncio.create_task(self._visit(tenant)) for tenant in tenants]
        await self.rest()

    async def leave(self, tenant: str) -> None:
        name = next(name for name in self.inside if name == tenant)
        self.inside.remove(name)
        await self.rest()

    async def rest(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _visit(self, tenant: str) -> None:
        async with self.gate.inside(tenant):
            self.inside.append(tenant)
            mine = self.inside.count(tenant)
            while self.inside.count(tenant) >= mine:
                await asyncio.sleep(0)


def test_gate_lets_tenants_in_in_equal_parts() -> None:
    async def run() -> None:
        visitors = Visitors(FairGate(4))
        await visitors.come(*"aaaaaaaa")
        assert visitors.inside == ["a"] * 4
        await visitors.come(*"bb")
        assert visitors.inside == ["a"] * 4, "who is inside stays"
        await visitors.leave("a")
        await visitors.leave("a")
        assert sorted(visitors.inside) == ["a", "a", "b", "b"]
        for task in visitors.tasks:
            task.cancel()
        await asyncio.gather(*visitors.tasks, return_exceptions=True)

    asyncio.run(run())


def test_gate_gives_no_place_to_who_was_cancelled_and_follows_its_limit() -> None:
    async def run() -> None:
        gate = FairGate(1)
        visitors = Visitors(gate)
        await visitors.come("a", "b", "c")
        assert visitors.inside == ["a"]
        visitors.tasks[1].cancel()
        await visitors.leave("a")
        assert visitors.inside == ["c"]
        await visitors.come("d", "e")
        gate.set_limit(2)
        await visitors.rest()
        assert visitors.inside == ["c", "d"]
        gate.set_limit(1)
        await visitors.leave("c")
        assert visitors.inside == ["d"]
        await visitors.leave("d")
        assert visitors.inside == ["e"]
        visitors.tasks[-1].cancel()
        await asyncio.gather(*visitors.tasks, return_exceptions=True)
        await asyncio.wait_for(gate.inside("f").__aenter__(), 1.0)

    asyncio.run(run())
