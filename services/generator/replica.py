"""A sampler replica: renders shards and reports its metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cytosynth import traces
from services.common.logs import configure_logging, request_id_var, tenant_var
from services.common.store.artifacts import ArtifactStore
from services.generator.autoscale import THROUGHPUT_METRIC
from services.generator.config import GeneratorSettings
from services.generator.plan import SynthesisPlan, SyntheticImage
from services.generator.shards import Shard

if TYPE_CHECKING:
    from services.generator.engine.step_records import StepRecord
    from services.generator.shard_renderer import ShardRenderer


class SamplerReplica:
    """Renders shards, whose images share the batches of its engine."""

    def __init__(self, settings: GeneratorSettings) -> None:
        """Load the default base and sample once to warm up."""
        configure_logging()
        traces.start(settings.traces_endpoint, "sampler")
        # torch and diffusers take 10 s and 600 MB: imported here, where they are used.
        from services.generator.shard_renderer import ShardRenderer

        self._metrics = _SamplerMetrics()
        store = ArtifactStore(settings.store_uri)
        self._renderer = ShardRenderer(settings, store, self._metrics.observe)
        with ThreadPoolExecutor(1) as thread:  # here a loop may be running already
            thread.submit(asyncio.run, self._renderer.warm_up()).result()

    async def render(self, shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        """Stream a shard's images in order."""
        started, is_first = time.monotonic(), True
        async with (
            _working_for(shard),
            contextlib.aclosing(self._renderer.render(shard)) as batches,
        ):
            async for images in batches:
                if is_first:
                    self._metrics.first_image(shard.plan, time.monotonic() - started)
                    is_first = False
                self._metrics.delivered(shard.plan, images, self._renderer)
                yield images

    async def check_health(self) -> None:
        """Fail once an engine has stopped, so that Serve replaces the replica."""
        for engine in self._renderer.engines:
            if engine.broken:
                raise RuntimeError("an engine has stopped") from engine.broken

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Report throughput to Serve's autoscaling."""
        rates = [engine.evaluations_per_second for engine in self._renderer.engines]
        return {THROUGHPUT_METRIC: max(rates, default=0.0)}


@contextlib.asynccontextmanager
async def _working_for(shard: Shard) -> AsyncGenerator[None, None]:
    """Tag log lines with the shard's request; trace a span."""
    request_id_var.set(shard.request_id)
    tenant_var.set(shard.plan.tenant)
    about: dict[str, traces.Value] = {
        "cytosynth.base": shard.plan.base,
        "cytosynth.first_index": shard.first,
        "cytosynth.num_images": shard.end - shard.first,
        "cytosynth.num_steps": shard.plan.sampler.num_steps,
    }
    with traces.span("render shard", "INTERNAL", shard.traceparent, about):
        yield


class _SamplerMetrics:
    """``ray.serve.metrics`` of a replica."""

    def __init__(self) -> None:
        from ray.serve import metrics

        name = "cytosynth_generator_"
        self._images = metrics.Counter(
            name + "images_total", "Images delivered.", tag_keys=("base", "tenant")
        )
        self._evaluations = metrics.Counter(
            name + "unet_evaluations_total",
            "UNet evaluations; a guided step takes two.",
            tag_keys=("tenant",),
        )
        self._withheld = metrics.Counter(
            name + "withheld_images_total",
            "Images sampled and not delivered: a near_copy of a training image is sampled again, "
            "a request with one that is not_finite fails.",
            tag_keys=("reason", "tenant"),
        )
        self._padding = metrics.Counter(
            name + "padding_evaluations_total", "Rows of batches that no image used."
        )
        self._step = metrics.Histogram(
            name + "step_seconds",
            "Duration of one step of a batch, decoding included, seconds.",
            boundaries=[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5],
        )
        self._first = metrics.Histogram(
            name + "first_image_seconds",
            "From a shard's arrival at a replica to its first image, seconds.",
            boundaries=[0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128],
            tag_keys=("interactive", "tenant"),
        )
        self._slots = metrics.Gauge(name + "slots_busy", "Rows used by the last step.")
        self._queue = metrics.Gauge(
            name + "queue_evaluations",
            "UNet evaluations that the shards here still need.",
            tag_keys=("tenant",),
        )
        self._queued: set[str] = set()
        self._hits = metrics.Counter(
            name + "adapter_hits_total",
            "Images whose weights were resident when they began.",
            tag_keys=("tenant",),
        )
        self._misses = metrics.Counter(
            name + "adapter_misses_total",
            "Adapters loaded, and prompts of the base alone encoded.",
            tag_keys=("tenant",),
        )

    def observe(self, record: StepRecord) -> None:
        """Count one step of an engine."""
        tally = record.tally
        for counter, by_tenant, tags in (
            (self._evaluations, tally.evaluations, {}),
            (self._withheld, tally.not_finite, {"reason": "not_finite"}),
            (self._withheld, tally.near_duplicates, {"reason": "near_copy"}),
            (self._hits, tally.adapter_hits, {}),
            (self._misses, tally.adapter_misses, {}),
        ):
            for tenant, num in (+by_tenant).items():  # Ray refuses to count nothing
                counter.inc(num, tags={"tenant": tenant, **tags})
        if record.num_rows_padded > record.num_rows:
            self._padding.inc(record.num_rows_padded - record.num_rows)
        self._step.observe(record.seconds)
        self._slots.set(record.num_rows)

    def first_image(self, plan: SynthesisPlan, seconds: float) -> None:
        """Observe how long a shard's first image took."""
        interactive = str(plan.interactive).lower()
        self._first.observe(seconds, tags={"interactive": interactive, "tenant": plan.tenant})

    def delivered(
        self, plan: SynthesisPlan, images: list[SyntheticImage], renderer: ShardRenderer
    ) -> None:
        """Count images that leave the replica, and what is left to do."""
        self._images.inc(len(images), tags={"base": plan.base, "tenant": plan.tenant})
        backlog = sum((engine.backlog for engine in renderer.engines), Counter[str]())
        self._queued |= set(backlog)
        for tenant in self._queued:
            self._queue.set(backlog[tenant], tags={"tenant": tenant})
