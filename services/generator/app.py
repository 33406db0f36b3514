"""The generator as a Ray Serve application::

    client ──gRPC──▶ Generator (front: checks, plans, orders) ──shards──▶ SamplerReplica × N

The front knows no torch; a sampler replica that dies is replaced, and its images replayed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from services.common.artifact_store import ArtifactStore
from services.common.errors import DomainError
from services.common.logs import configure_logging
from services.common.status import metrics_observer, set_observer
from services.generator.config import GeneratorSettings
from services.generator.service import GeneratorService
from services.generator.shards import Shard, cut, stream_in_order
from services.generator.synthesize import DrawnImage, ImageTask, SynthesisPlan

APP_NAME = "generator"
_LOSSES = (RayActorError, WorkerCrashedError, DeploymentUnavailableError)
_HEALTH: dict[str, float] = {"health_check_period_s": 1.0, "health_check_timeout_s": 30.0}


class SamplerReplica:
    """Draws shards, one batch at a time; concurrent shards take turns."""

    def __init__(self, settings: GeneratorSettings) -> None:
        """Load the default base and draw once, so that a ready replica is a warm one."""
        configure_logging()
        # torch and diffusers take 10 s and 600 MB: imported here, where they are used.
        from services.generator.draw import BatchDrawer, encode

        self._drawer = BatchDrawer(settings, ArtifactStore(settings.store_uri))
        self._encode = encode
        self._drawing = ThreadPoolExecutor(1, "draw")
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._turn = asyncio.Lock()
        self._metrics = _SamplerMetrics()
        self._drawing.submit(self._drawer.warm_up).result()

    async def draw(self, shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        """Stream a shard's images, a batch at a time, in order."""
        loop = asyncio.get_running_loop()
        for batch in shard.plan.batches(shard.first, shard.end):
            async with self._turn:
                arrays = await self._draw_batch(shard.plan, batch)
            yield await loop.run_in_executor(
                self._encoding, self._encode_batch, shard.plan, batch, arrays
            )

    def _encode_batch(
        self, plan: SynthesisPlan, batch: list[ImageTask], arrays: list[Any]
    ) -> list[DrawnImage]:
        return [
            self._encode(task, array, plan.image_format)
            for task, array in zip(batch, arrays, strict=True)
        ]

    async def _draw_batch(self, plan: SynthesisPlan, batch: list[ImageTask]) -> list[Any]:
        stop = threading.Event()
        started = time.monotonic()
        work = self._drawing.submit(self._drawer.draw, plan, batch, stop.is_set)
        try:
            arrays = await asyncio.wrap_future(work)
        finally:
            stop.set()  # nobody waits any more, if it still runs: it ends before its next step
        self._metrics.observe(plan, len(batch), time.monotonic() - started)
        return arrays


class _SamplerMetrics:
    def __init__(self) -> None:
        from ray.serve import metrics

        tags = ("base",)
        self._images = metrics.Counter(
            "cytosynth_generator_images_total", "Images drawn.", tag_keys=tags
        )
        self._evaluations = metrics.Counter(
            "cytosynth_generator_unet_evaluations_total",
            "UNet evaluations of whole slots, padding included; guidance counts twice.",
            tag_keys=tags,
        )
        self._seconds = metrics.Histogram(
            "cytosynth_generator_batch_seconds",
            "Duration of one batch, seconds.",
            boundaries=[0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128],
            tag_keys=tags,
        )

    def observe(self, plan: SynthesisPlan, num_images: int, seconds: float) -> None:
        tags = {"base": plan.base}
        self._images.inc(num_images, tags=tags)
        self._evaluations.inc(plan.evaluations_per_batch, tags=tags)
        self._seconds.observe(seconds, tags=tags)


class Generator(GeneratorService):
    """The front: gRPC in, shards out, images in order back."""

    def __init__(self, settings: GeneratorSettings, samplers: DeploymentHandle) -> None:
        configure_logging()
        set_observer(metrics_observer(serve.metrics))
        super().__init__(settings, self._stream)
        self._draw = samplers.options(stream=True).draw

    def _stream(self, plan: SynthesisPlan) -> AsyncGenerator[DrawnImage, None]:
        return stream_in_order(
            cut(plan, self._settings.generator_shard_num_images),
            self._draw_shard,
            is_lost_replica,
            self._settings.generator_num_replicas,
            self._settings.generator_recovery_seconds,
        )

    async def _draw_shard(self, shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        batches = self._draw.remote(shard)
        try:
            async for batch in batches:
                yield batch
        except RayTaskError as error:
            if isinstance(error.cause, DomainError):
                raise error.cause from None
            raise
        finally:
            batches.cancel()


def is_lost_replica(error: BaseException) -> bool:
    """Whether an error says that a replica went away, not that the work failed."""
    return isinstance(error, _LOSSES)


def build_app(settings: GeneratorSettings | None = None) -> serve.Application:
    """The whole graph: one front, ``generator_num_replicas`` samplers behind it."""
    settings = settings or GeneratorSettings.load()
    samplers = serve.deployment(SamplerReplica).options(
        name="SamplerReplica",
        num_replicas=settings.generator_num_replicas,
        max_ongoing_requests=2 * settings.generator_max_concurrent_requests,
        ray_actor_options={
            "num_cpus": settings.generator_replica_num_cpus,
            "num_gpus": settings.generator_replica_num_gpus,
        },
        graceful_shutdown_timeout_s=5.0,
        **_HEALTH,
    )
    front = serve.deployment(Generator).options(
        name="Generator",
        max_ongoing_requests=settings.generator_max_concurrent_requests,
        max_queued_requests=settings.generator_max_concurrent_requests,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5.0,
        **_HEALTH,
    )
    return front.bind(settings, samplers.bind(settings))
