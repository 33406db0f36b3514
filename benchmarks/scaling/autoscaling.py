"""Measures the front's use of 64 replicas, and autoscaling.

    python -m benchmarks.scaling.autoscaling --out out/bench

A simulation: the front's own code (``cut``, ``stream_in_order``) and the autoscaling policies run
on a virtual clock; the replicas are fake and take a stated time. The clock stands still while
code runs, so gRPC, PNG and the network are not in it; the processor time that the front's code
and the simulation take per image is reported beside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.scaling.cost import GPU, NUM_IMAGES_PAPER, assumed_images_per_second
from benchmarks.scaling.fake_fleet import (
    FakeController,
    FakeFleet,
    FakeSampler,
    ReplicaStoppedError,
)
from benchmarks.scaling.virtual_clock import run_virtual
from services.common.errors import DataLoss
from services.generator.autoscale import AutoscaleSettings
from services.generator.plan import Execution, SynthesisPlan, SyntheticImage
from services.generator.presets import PRESETS
from services.generator.shards import cut, stream_in_order

REPLICAS = (1, 2, 4, 8, 16, 32, 64)
BATCH_SIZE = 16
PRESET = PRESETS["paper"]
MAX_ONGOING = (1, 2, 4, 16, 64)


@dataclass(frozen=True)
class Request:
    """One request, and how the front hands it out.

    Attributes:
        in_flight_per_replica: Shards in flight, over the most replicas there can be.
    """

    num_images: int
    shard_num_images: int = 64
    in_flight_per_replica: int = 3


@dataclass(frozen=True)
class Scaling:
    """One request on a fixed number of replicas; efficiency against linear."""

    replicas: int
    seconds: float
    images_per_second: float
    efficiency: float
    first_image_seconds: float


@dataclass(frozen=True)
class Autoscaled:
    """One request from no replica and back to none; virtual seconds.

    Attributes:
        replica_hours: Hours of all replicas from the decision to start to the decision to stop.
        work_hours: What the images take a replica that never waits.
    """

    target_seconds: float
    most_replicas: int
    most_ready_seconds: float
    first_image_seconds: float
    seconds: float
    until_zero_seconds: float
    replica_hours: float
    work_hours: float


def fixed_fleet(request: Request, sampler: FakeSampler, replicas: int) -> tuple[float, float]:
    """Run a request on ready replicas.

    Returns:
        Seconds to the first and to the last image.
    """

    async def work() -> tuple[float, float]:
        fleet = FakeFleet(sampler)
        fleet.add_ready(replicas)
        return await consume(request, fleet, replicas)

    return run_virtual(work())


def scaling(
    request: Request, sampler: FakeSampler, counts: Sequence[int] = REPLICAS
) -> list[Scaling]:
    """The same request on more and more replicas."""
    _, alone = fixed_fleet(request, sampler, 1)
    rows = []
    for count in counts:
        first, seconds = fixed_fleet(request, sampler, count)
        rate = request.num_images / seconds
        rows.append(Scaling(count, seconds, rate, alone / (count * seconds), first))
    return rows


def autoscaled(request: Request, sampler: FakeSampler, settings: AutoscaleSettings) -> Autoscaled:
    """Run a request with the policies, to the last replica's end.

    ``settings.min_replicas`` must be 0, or that would never be.
    """

    async def work() -> Autoscaled:
        loop = asyncio.get_running_loop()
        fleet = FakeFleet(sampler)
        controller = FakeController(fleet, settings)
        most, most_ready_at = 0, 0.0

        def delivered(count: int) -> None:
            nonlocal most, most_ready_at
            left = request.num_images - count
            controller.backlog_evaluations = left * sampler.evaluations_per_image
            if fleet.num_ready > most:
                most, most_ready_at = fleet.num_ready, loop.time()

        task = asyncio.create_task(controller.run())
        first, seconds = await consume(request, fleet, settings.max_replicas, delivered)
        while fleet.num_replicas:
            await asyncio.sleep(1.0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return Autoscaled(
            target_seconds=settings.target_seconds,
            most_replicas=most,
            most_ready_seconds=most_ready_at,
            first_image_seconds=first,
            seconds=seconds,
            until_zero_seconds=loop.time() - seconds,
            replica_hours=fleet.replica_seconds(loop.time()) / 3600,
            work_hours=request.num_images * sampler.batch_seconds / sampler.batch_size / 3600,
        )

    return run_virtual(work())


async def consume(
    request: Request,
    fleet: FakeFleet,
    max_replicas: int,
    delivered: Callable[[int], None] = lambda count: None,
) -> tuple[float, float]:
    """Take and check every image of the front's stream.

    Returns:
        Seconds to the first and to the last image.

    Raises:
        DataLoss: If an image is missing, doubled, out of order or not its own.
    """
    loop = asyncio.get_running_loop()
    count, first = 0, 0.0
    delivered(count)
    async with contextlib.aclosing(_stream(request, fleet, max_replicas)) as images:
        async for image in images:
            if (image.index, image.data) != (count, b"%d" % count):
                raise DataLoss(f"image {image.index} came for {count}")
            first = first if count else loop.time()
            count += 1
            delivered(count)
    if count != request.num_images:
        raise DataLoss(f"{count} images came, {request.num_images} were asked for")
    return first, loop.time()


def _stream(
    request: Request, fleet: FakeFleet, max_replicas: int
) -> AsyncGenerator[SyntheticImage, None]:
    plan = SynthesisPlan(
        tenant="local",
        base="fake",
        base_revision="fake",
        adapter=None,
        class_counts=(("monocyte", request.num_images),),
        seed=0,
        sampler=PRESET,
        execution=Execution(fleet.sampler.batch_size, "float32"),
        image_format="PNG",
    )
    return stream_in_order(
        cut(plan, request.shard_num_images),
        fleet.draw,
        lambda error: isinstance(error, ReplicaStoppedError),
        request.in_flight_per_replica * max_replicas,
        600.0,
    )


def report(request: Request, sampler: FakeSampler, settings: AutoscaleSettings) -> dict[str, Any]:
    """All figures, ready for JSON."""
    started = time.process_time()
    rows = scaling(request, sampler)
    cpu_seconds = time.process_time() - started
    most = settings.max_replicas
    return {
        "what": "simulation on a virtual clock; fake samplers, real front and policies",
        "request": asdict(request),
        "sampler": asdict(sampler),
        "autoscale": asdict(settings),
        "cpu_seconds_per_image": cpu_seconds / (request.num_images * (1 + len(rows))),
        "scaling": [asdict(row) for row in rows],
        "autoscaled": [
            asdict(autoscaled(request, sampler, replace(settings, target_seconds=seconds)))
            for seconds in (settings.target_seconds, settings.target_seconds / 2)
        ],
        "max_ongoing": [
            {
                "max_ongoing": count,
                "efficiency": scaling(request, one, [most])[0].efficiency,
                "autoscaled_seconds": autoscaled(request, one, settings).seconds,
            }
            for count in MAX_ONGOING
            for one in [replace(sampler, max_ongoing=count)]
        ],
    }


def show(figures: dict[str, Any]) -> None:
    """Print the lists of a report as tables."""
    for name in ("scaling", "autoscaled", "max_ongoing"):
        rows = figures[name]
        print(f"\n{name}\n" + "  ".join(rows[0]))
        for row in rows:
            print("  ".join(f"{value:>{len(key)}.4g}" for key, value in row.items()))
    print(f"\nprocessor time per image: {1e6 * figures['cpu_seconds_per_image']:.1f} µs")


def main() -> None:
    """Run it all, print it, and write ``autoscaling.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pace = BATCH_SIZE / assumed_images_per_second(PRESET)
    what = (
        f"{BATCH_SIZE} images, all steps; default: {GPU} as assumed in benchmarks/scaling/cost.py"
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--images", type=int, default=NUM_IMAGES_PAPER)
    parser.add_argument("--batch-seconds", type=float, default=pace, help=what)
    parser.add_argument("--start-up-seconds", type=float, default=60.0)
    parser.add_argument("--target-seconds", type=float, default=600.0)
    arguments = parser.parse_args()
    sampler = FakeSampler(
        BATCH_SIZE,
        PRESET.num_steps,
        arguments.batch_seconds,
        start_up_seconds=arguments.start_up_seconds,
    )
    settings = AutoscaleSettings(
        max_replicas=max(REPLICAS),
        target_seconds=arguments.target_seconds,
        evaluations_per_second=sampler.evaluations_per_second,
        downscale_delay_seconds=arguments.target_seconds / 10,
    )
    figures = report(Request(arguments.images), sampler, settings)
    show(figures)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "autoscaling.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
