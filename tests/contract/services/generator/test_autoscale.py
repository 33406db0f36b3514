"""Autoscaling in a real Serve: toy samplers follow a toy front."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from services.generator.autoscale import (
    BACKLOG_METRIC,
    THROUGHPUT_METRIC,
    AutoscaleSettings,
    front_autoscaling,
    sampler_autoscaling,
)
from tests.support.servers.local_serve import local_serve

APP = "toy"
DELAY_SECONDS = 3.0
SETTINGS = AutoscaleSettings(
    max_replicas=4,
    target_seconds=10.0,
    evaluations_per_second=1000.0,
    downscale_delay_seconds=DELAY_SECONDS,
)
MEASURED = 100.0

pytestmark = pytest.mark.timeout(300)


class Front:
    """Reports the backlog it is told, and generates when asked."""

    def __init__(self, samplers: Any) -> None:
        self._samplers, self._backlog = samplers, 0.0

    async def owe(self, evaluations: float) -> None:
        self._backlog = evaluations

    async def draw(self) -> str:
        return str(await self._samplers.draw.remote())

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {BACKLOG_METRIC: self._backlog}


class Sampler:
    """Slower than assumed, and says so."""

    async def draw(self) -> str:
        return "drawn"

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {THROUGHPUT_METRIC: MEASURED}


@pytest.fixture(scope="module")
def front() -> Iterator[Any]:
    from ray import serve

    cheap: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0},
        "graceful_shutdown_timeout_s": 0.1,
    }
    samplers = serve.deployment(Sampler).options(
        name="Sampler", autoscaling_config=sampler_autoscaling(SETTINGS), **cheap
    )
    app = serve.deployment(Front).options(
        name="Front", autoscaling_config=front_autoscaling(), **cheap
    )
    with local_serve(app.bind(samplers.bind()), APP):
        yield serve.get_app_handle(APP)


def num_samplers() -> int:
    """Sampler replicas that run."""
    from ray import serve

    states = serve.status().applications[APP].deployments["Sampler"].replica_states
    return int(sum(n for state, n in states.items() if state == "RUNNING"))


def wait_for(count: int, seconds: float = 60.0) -> list[int]:
    """The numbers of samplers seen until there were ``count`` of them."""
    seen = [num_samplers()]
    give_up = time.monotonic() + seconds
    while seen[-1] != count:
        assert time.monotonic() < give_up, f"{count} samplers never came: {seen}"
        time.sleep(0.2)
        if (now := num_samplers()) != seen[-1]:
            seen.append(now)
    return seen


def test_samplers_follow_the_backlog_from_zero_and_back(front: Any) -> None:
    assert num_samplers() == 0

    # 1 replica at the assumed 1000 per second; then, as measured, ceil(2900 / (100 * 10)) = 3.
    front.owe.remote(2900.0).result()
    assert max(wait_for(3)) == 3
    front.owe.remote(0.0).result()
    wait_for(0)

    # Nothing reports now, but 100 per second are remembered: 2 at once.
    front.owe.remote(1900.0).result()
    wait_for(2)
    time.sleep(DELAY_SECONDS + 3)
    assert num_samplers() == 2
    front.owe.remote(0.0).result()
    wait_for(0)

    # A request that waits wakes a sampler even before the front has reported.
    assert front.draw.remote().result(timeout_s=60) == "drawn"
    wait_for(0)
