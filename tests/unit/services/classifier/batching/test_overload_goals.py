"""Overload costs the accepted nothing, on a simulated clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pytest

from services.classifier.batching.flows import Flow, Work
from services.classifier.batching.schedule import Limits, Schedule
from services.classifier.batching.service_times import ServiceTimes
from tests.support.fakes.scores import FakeNetwork, image

SIZES = (1, 2, 4, 8, 16, 32)
DECODE_SECONDS = 0.001
# Seconds of a batch without images and of each image: a small, a middling and a large network.
NETWORKS = {"small": (0.004, 0.003), "middling": (0.005, 0.02), "large": (0.01, 0.08)}


@dataclass
class Simulation:
    """One process with a decoder, a worker and random single images."""

    fixed: float
    per_image: float
    num_workers: int = 1
    seed: int = 0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    num_refused: int = 0

    def run(self, phases: list[tuple[float, float]]) -> None:
        """Offers (calls per second, seconds) one after the other."""
        rng = np.random.default_rng(self.seed)
        network = FakeNetwork()
        network.times = ServiceTimes({n: self.fixed + self.per_image * n for n in SIZES})
        num_decoders = max(1, self.num_workers // 2)
        schedule = Schedule(Limits(num_decoders=num_decoders, num_workers=self.num_workers))
        events: list[tuple[float, int, str, Any]] = []
        order = count()
        start = 0.0
        for rate, seconds in phases:
            at = start
            while (at := at + rng.exponential(1 / rate)) < start + seconds:
                heapq.heappush(events, (at, next(order), "arrive", None))
            start += seconds
        num_idle_decoders, num_idle = num_decoders, self.num_workers
        wake = float("inf")
        while events:
            now, _, kind, what = heapq.heappop(events)
            if kind == "arrive":
                if schedule.excess_wait("lab", network, now) > 0:
                    self.num_refused += 1
                else:
                    flow = Flow("lab", network)
                    # Nothing awaits the future in a simulation.
                    schedule.submit(Work(flow, lambda: image(1), None), now)  # type: ignore[arg-type]
            elif kind == "decoded":
                num_idle_decoders += 1
                what.image = image(1)
                schedule.decoded(what, DECODE_SECONDS, now)
            elif kind == "computed":
                num_idle += 1
                schedule.finished(what, what.seconds)
                self.latencies += [(work.submitted, now - work.submitted) for work in what.works]
            while num_idle_decoders and (work := schedule.next_to_decode()) is not None:
                num_idle_decoders -= 1
                heapq.heappush(events, (now + DECODE_SECONDS, next(order), "decoded", work))
            while num_idle:
                batch, wait = schedule.next_batch(now)
                if batch is not None:
                    num_idle -= 1
                    taken = self.fixed + self.per_image * batch.size
                    heapq.heappush(events, (now + taken, next(order), "computed", batch))
                    continue
                if wait is not None and not now < wake <= now + wait:
                    wake = now + wait
                    heapq.heappush(events, (wake, next(order), "wake", None))
                break

    def p99(self, begin: float, end: float) -> float:
        """99th percentile of the latency of accepted calls in a period."""
        return float(np.quantile([took for at, took in self.latencies if begin <= at < end], 0.99))

    def goodput(self, begin: float, end: float) -> float:
        """Answers per second in a stretch of time."""
        return sum(begin <= at + took < end for at, took in self.latencies) / (end - begin)


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_accepted_calls_hardly_notice_overload(name: str, num_workers: int) -> None:
    fixed, per_image = NETWORKS[name]
    network = ServiceTimes({n: fixed + per_image * n for n in SIZES})
    capacity = num_workers / network.seconds_per_image
    seconds = max(12.0, 2000 / capacity)
    simulation = Simulation(fixed, per_image, num_workers)
    loads = (0.8, 1.0, 2.0, 10.0)
    simulation.run([(load * capacity, seconds) for load in loads])
    stretch = {
        load: ((place + 0.15) * seconds, (place + 1) * seconds) for place, load in enumerate(loads)
    }
    peak = max(simulation.goodput(*each) for each in stretch.values())
    normal = simulation.p99(*stretch[0.8])
    for load in (2.0, 10.0):
        assert simulation.goodput(*stretch[load]) >= 0.95 * peak, load
        assert simulation.p99(*stretch[load]) <= 2 * normal, load


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_nobody_is_refused_at_80_percent(name: str, num_workers: int) -> None:
    fixed, per_image = NETWORKS[name]
    network = ServiceTimes({n: fixed + per_image * n for n in SIZES})
    capacity = num_workers / network.seconds_per_image
    simulation = Simulation(fixed, per_image, num_workers)
    simulation.run([(0.8 * capacity, 3000 / capacity)])
    assert simulation.num_refused == 0 and len(simulation.latencies) > 2000


def test_latency_is_back_to_normal_at_once_after_overload() -> None:
    fixed, per_image = NETWORKS["small"]
    capacity = 1 / ServiceTimes({n: fixed + per_image * n for n in SIZES}).seconds_per_image
    simulation = Simulation(fixed, per_image)
    simulation.run([(0.8 * capacity, 10.0), (10 * capacity, 10.0), (0.8 * capacity, 10.0)])
    assert simulation.p99(20.5, 30.0) <= 1.5 * simulation.p99(1.0, 10.0)
    assert simulation.goodput(21.0, 30.0) >= 0.95 * simulation.goodput(1.0, 10.0)
