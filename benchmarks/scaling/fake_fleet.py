"""Fake replicas that take a stated time, and Serve's part around them."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from services.generator import autoscale
from services.generator.autoscale import AutoscaleSettings, FrontPolicy, SamplerPolicy
from services.generator.plan import SyntheticImage
from services.generator.shards import Shard

STOP_SECONDS = 5.0  # graceful_shutdown_timeout_s in services/generator/app.py
_APP = "simulated"


@dataclass(frozen=True)
class FakeSampler:
    """One replica's pace.

    Attributes:
        batch_seconds: One batch of whatever size, all steps and the decoding.
        jitter: Standard deviation of a batch's time, as a share of it.
        start_up_seconds: From the decision for a replica until it is ready.
        max_ongoing: Shards that Serve gives to one replica at a time.
    """

    batch_size: int
    num_steps: int
    batch_seconds: float
    jitter: float = 0.05
    start_up_seconds: float = 60.0
    max_ongoing: int = 2

    @property
    def evaluations_per_image(self) -> int:
        """UNet evaluations of one image; guidance takes two a step."""
        return 2 * self.num_steps

    @property
    def evaluations_per_second(self) -> float:
        """UNet evaluations of a replica that never waits."""
        return self.batch_size * self.evaluations_per_image / self.batch_seconds


class ReplicaStoppedError(Exception):
    """The replica went away; its shard is replayed elsewhere."""


@dataclass(eq=False)
class _Replica:
    asked_for: float
    ready: bool = False
    stopped: bool = False
    ongoing: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class FakeFleet:
    """Replicas behind a handle like Serve's.

    First come, first served; of two replicas picked at random, the less busy one serves.
    """

    def __init__(self, sampler: FakeSampler, seed: int = 0) -> None:
        self.sampler, self._random = sampler, random.Random(seed)
        self._waiting: deque[asyncio.Future[_Replica]] = deque()
        self._replicas: list[_Replica] = []
        self._past_seconds = 0.0

    @property
    def num_replicas(self) -> int:
        """Replicas asked for, ready or not."""
        return len(self._replicas)

    @property
    def num_ready(self) -> int:
        """Replicas that are ready."""
        return sum(replica.ready for replica in self._replicas)

    @property
    def num_queued(self) -> int:
        """Shards that no replica has taken."""
        return len(self._waiting)

    def replica_seconds(self, now: float) -> float:
        """Seconds of all replicas, from decision to start to decision to stop."""
        return self._past_seconds + sum(now - one.asked_for for one in self._replicas)

    def add_ready(self, count: int) -> None:
        """Replicas that are there from the beginning."""
        now = asyncio.get_running_loop().time()
        self._replicas += [_Replica(now, ready=True) for _ in range(count)]

    def scale(self, count: int) -> None:
        """Start or stop replicas; a stopping one has ``STOP_SECONDS`` to finish."""
        loop = asyncio.get_running_loop()
        while len(self._replicas) > count:
            replica = self._replicas.pop()
            replica.ready = False
            self._past_seconds += loop.time() - replica.asked_for
            loop.call_later(STOP_SECONDS, setattr, replica, "stopped", True)
        while len(self._replicas) < count:
            self._replicas.append(_Replica(loop.time()))
            loop.call_later(self.sampler.start_up_seconds, self._make_ready, self._replicas[-1])

    async def draw(self, shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        """Stream a shard's images, each its index as bytes, in due time."""
        place: asyncio.Future[_Replica] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._hand_out()
        replica = await place
        try:
            first = shard.first
            while first < shard.end:
                size = self.sampler.batch_size
                end = min(first - first % size + size, shard.end)
                async with replica.turn:
                    share = max(0.0, self._random.gauss(1.0, self.sampler.jitter))
                    await asyncio.sleep(share * self.sampler.batch_seconds)
                if replica.stopped:
                    raise ReplicaStoppedError
                yield [SyntheticImage(i, "monocyte", 0, b"%d" % i, 1, 1) for i in range(first, end)]
                first = end
        finally:
            replica.ongoing -= 1
            self._hand_out()

    def _make_ready(self, replica: _Replica) -> None:
        replica.ready = replica in self._replicas
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            limit = self.sampler.max_ongoing
            free = [one for one in self._replicas if one.ready and one.ongoing < limit]
            if not free:
                return
            two = self._random.sample(free, min(2, len(free)))
            replica = min(two, key=lambda one: one.ongoing)
            replica.ongoing += 1
            self._waiting.popleft().set_result(replica)


@dataclass
class _Context:
    """The part of Serve's context that our policies read."""

    target_num_replicas: int
    current_time: float
    raw_metrics: dict[str, dict[int, list[_Sample]]]
    app_name: str = _APP


@dataclass
class _Sample:
    value: float


class FakeController:
    """Asks the real policies as Serve's controller does, every ``autoscale.REPORT_SECONDS``.

    Three rules of Serve 2.60 are kept: with shards queued and none running, one replica at once and
    no question asked; up at once, down after the delay; to zero only from one.
    """

    def __init__(self, fleet: FakeFleet, settings: AutoscaleSettings) -> None:
        self._fleet, self._settings = fleet, settings
        config = autoscale.sampler_autoscaling(settings)
        self._front, self._samplers = (
            FrontPolicy(),
            SamplerPolicy(**config["policy"]["policy_kwargs"]),
        )
        self._down_since = math.inf
        self.backlog_evaluations = 0.0

    async def run(self) -> None:
        """Scale until cancelled."""
        while True:
            await asyncio.sleep(autoscale.REPORT_SECONDS)
            self._fleet.scale(self._decide())

    def _decide(self) -> int:
        fleet, now = self._fleet, asyncio.get_running_loop().time()
        target = fleet.num_replicas
        backlog = {autoscale.BACKLOG_METRIC: {0: [_Sample(self.backlog_evaluations)]}}
        self._front(_Context(1, now, backlog))
        if fleet.num_queued and not fleet.num_ready:
            return max(1, target)
        pace = _Sample(fleet.sampler.evaluations_per_second)
        measured = {autoscale.THROUGHPUT_METRIC: {i: [pace] for i in range(fleet.num_ready)}}
        wanted, _ = self._samplers(_Context(target, now, measured))
        if wanted >= target:
            self._down_since = math.inf
            return min(wanted, self._settings.max_replicas)
        self._down_since = min(self._down_since, now)
        if now - self._down_since < self._settings.downscale_delay_seconds:
            return target
        self._down_since = math.inf
        return max(wanted, self._settings.min_replicas, 1 if target > 1 else 0)
