"""The generator as a Ray Serve application::

    client ──gRPC──▶ Generator (front: checks, plans, orders) ──shards──▶ SamplerReplica × N

The front knows no torch; a sampler replica that dies is replaced, and its images replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from cytosynth import traces
from services.common.artifact_store import ArtifactStore
from services.common.backpressure import bound_streams
from services.common.errors import DomainError, Unavailable
from services.common.logs import configure_logging, request_id_var, tenant_var
from services.common.status import metrics_observer, set_observer
from services.generator.autoscale import (
    BACKLOG_METRIC,
    REPORT_SECONDS,
    THROUGHPUT_METRIC,
    Owed,
    front_autoscaling,
    sampler_autoscaling,
)
from services.generator.config import GeneratorSettings
from services.generator.service import GeneratorService
from services.generator.shards import Gate, Shard, cut, stream_in_order
from services.generator.synthesize import DrawnImage, SynthesisPlan

if TYPE_CHECKING:
    from services.generator.draw import Drawer
    from services.generator.engine import StepRecord

APP_NAME = "generator"
SAMPLER_NAME = "SamplerReplica"
_LOSSES = (RayActorError, WorkerCrashedError, DeploymentUnavailableError)
_HEALTH: dict[str, Any] = {"health_check_period_s": 1.0, "health_check_timeout_s": 30.0}


class SamplerReplica:
    """Draws shards; images of all of them share the batches of its engine."""

    def __init__(self, settings: GeneratorSettings) -> None:
        """Load the default base and draw once, so that a ready replica is a warm one."""
        configure_logging()
        traces.start(settings.traces_endpoint, "sampler")
        # torch and diffusers take 10 s and 600 MB: imported here, where they are used.
        from services.generator.draw import Drawer

        self._metrics = _SamplerMetrics()
        self._drawer = Drawer(settings, ArtifactStore(settings.store_uri), self._metrics.observe)
        with ThreadPoolExecutor(1) as thread:  # here a loop may be running already
            thread.submit(asyncio.run, self._drawer.warm_up()).result()

    async def draw(self, shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        """Stream a shard's images in order."""
        started, is_first = time.monotonic(), True
        async with _working_for(shard), contextlib.aclosing(self._drawer.draw(shard)) as batches:
            async for images in batches:
                if is_first:
                    self._metrics.first_image(shard.plan, time.monotonic() - started)
                    is_first = False
                self._metrics.delivered(shard.plan, images, self._drawer)
                yield images

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine has stopped."""
        for engine in self._drawer.engines:
            if engine.broken:
                raise RuntimeError("an engine has stopped") from engine.broken

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaling."""
        rates = [engine.evaluations_per_second for engine in self._drawer.engines]
        return {THROUGHPUT_METRIC: max(rates, default=0.0)}


@contextlib.asynccontextmanager
async def _working_for(shard: Shard) -> AsyncGenerator[None, None]:
    """Log lines and a span of the request that the shard belongs to."""
    request_id_var.set(shard.request_id)
    tenant_var.set(shard.plan.tenant)
    about: dict[str, traces.Value] = {
        "cytosynth.base": shard.plan.base,
        "cytosynth.first_index": shard.first,
        "cytosynth.num_images": shard.end - shard.first,
        "cytosynth.num_steps": shard.plan.sampler.num_steps,
    }
    with traces.span("draw shard", "INTERNAL", shard.traceparent, about):
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
            "Images drawn and not delivered: a near_copy of a training image is drawn again, "
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
            "Images begun, whose weights were there.",
            tag_keys=("tenant",),
        )
        self._misses = metrics.Counter(
            name + "adapter_misses_total",
            "Adapters loaded, and prompts of the base alone encoded.",
            tag_keys=("tenant",),
        )

    def observe(self, record: StepRecord) -> None:
        """Called by an engine after every step."""
        tally = record.tally
        for counter, by_tenant, tags in (
            (self._evaluations, tally.evaluations, {}),
            (self._withheld, tally.not_finite, {"reason": "not_finite"}),
            (self._withheld, tally.near_copies, {"reason": "near_copy"}),
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
        """Called when a shard's first image leaves the replica."""
        interactive = str(plan.interactive).lower()
        self._first.observe(seconds, tags={"interactive": interactive, "tenant": plan.tenant})

    def delivered(self, plan: SynthesisPlan, images: list[DrawnImage], drawer: Drawer) -> None:
        """Called when images leave the replica."""
        self._images.inc(len(images), tags={"base": plan.base, "tenant": plan.tenant})
        backlog = sum((engine.backlog for engine in drawer.engines), Counter[str]())
        self._queued |= set(backlog)
        for tenant in self._queued:
            self._queue.set(backlog[tenant], tags={"tenant": tenant})


class Generator(GeneratorService):
    """The front: gRPC in, shards out, images in order back."""

    def __init__(self, settings: GeneratorSettings, samplers: DeploymentHandle) -> None:
        configure_logging()
        traces.start(settings.traces_endpoint, APP_NAME)
        bound_streams()
        set_observer(metrics_observer(serve.metrics))
        super().__init__(settings, self._stream)
        self._draw = samplers.options(stream=True).draw
        self._owed: dict[str, Owed] = {}
        self._gate = Gate(
            settings.generator_shards_per_replica * max(1, settings.generator_min_replicas)
        )
        self._watching: asyncio.Task[None] | None = None
        self._backlog = serve.metrics.Gauge(
            "cytosynth_generator_backlog_evaluations",
            "UNet evaluations that the front still owes to readers.",
        )
        threading.Thread(target=self._tell_backlog, name="backlog", daemon=True).start()

    async def _stream(self, plan: SynthesisPlan) -> AsyncGenerator[DrawnImage, None]:
        settings = self._settings
        images = stream_in_order(
            cut(plan, settings.generator_shard_num_images),
            self._draw_shard,
            is_lost_replica,
            settings.generator_shards_per_replica * settings.generator_max_replicas,
            settings.generator_recovery_seconds,
        )
        self._watching = self._watching or asyncio.create_task(self._watch_replicas())
        num_images = plan.num_images - plan.first_index
        self._owed[plan.request_id] = owed = Owed(num_images, plan.evaluations_per_image)
        try:
            async with contextlib.aclosing(images):
                async for image in images:
                    owed.hand_over()
                    yield image
                    owed.taken()
        finally:
            del self._owed[plan.request_id]

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaling."""
        return {BACKLOG_METRIC: self._backlog_evaluations()}

    def _backlog_evaluations(self) -> float:
        return float(sum(owed.evaluations for owed in [*self._owed.values()]))

    def _tell_backlog(self) -> None:
        while True:  # Ray drops a gauge that is not set again and again
            self._backlog.set(self._backlog_evaluations())
            time.sleep(REPORT_SECONDS)

    async def _draw_shard(self, shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        tenant = shard.plan.tenant
        entrance = contextlib.nullcontext() if shard.plan.interactive else self._gate.inside(tenant)
        async with entrance:
            told = replace(
                shard,
                request_id=request_id_var.get(),
                traceparent=traces.traceparent_var.get(),
            )
            batches = self._draw.remote(told)
            try:
                async for batch in batches:
                    yield batch
            except RayTaskError as error:
                if isinstance(error.cause, DomainError):
                    raise error.cause from None
                raise
            finally:
                batches.cancel()

    async def _watch_replicas(self) -> None:
        """Lets bulk work through as replicas come and go."""
        while self._settings.generator_min_replicas < self._settings.generator_max_replicas:
            with contextlib.suppress(RayError):  # the controller may be restarting
                status = await asyncio.to_thread(serve.status)
                states = status.applications[APP_NAME].deployments[SAMPLER_NAME].replica_states
                num_running = sum(num for state, num in states.items() if state == "RUNNING")
                self._gate.set_limit(
                    max(1, num_running) * self._settings.generator_shards_per_replica
                )
            await asyncio.sleep(1.0)


def is_lost_replica(error: BaseException) -> bool:
    """Whether an error says that a replica went away, not that the work failed."""
    return isinstance(error, (*_LOSSES, Unavailable))


def build_app(settings: GeneratorSettings | None = None) -> serve.Application:
    """The whole graph: one front, samplers behind it as the backlog asks for."""
    settings = settings or GeneratorSettings.load()
    fixed = settings.generator_min_replicas == settings.generator_max_replicas
    num_samplers: dict[str, Any] = {"num_replicas": settings.generator_max_replicas}
    num_fronts: dict[str, Any] = {"num_replicas": 1}
    if not fixed:
        num_samplers = {"autoscaling_config": sampler_autoscaling(settings.autoscale)}
        num_fronts = {"autoscaling_config": front_autoscaling()}
    samplers = serve.deployment(SamplerReplica).options(
        name=SAMPLER_NAME,
        max_ongoing_requests=2 * settings.generator_max_concurrent_requests,
        ray_actor_options={
            "num_cpus": settings.generator_replica_num_cpus,
            "num_gpus": settings.generator_replica_num_gpus,
        },
        graceful_shutdown_timeout_s=5.0,
        **num_samplers,
        **_HEALTH,
    )
    front = serve.deployment(Generator).options(
        name="Generator",
        max_ongoing_requests=settings.generator_max_concurrent_requests,
        max_queued_requests=settings.generator_max_concurrent_requests,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5.0,
        **num_fronts,
        **_HEALTH,
    )
    return front.bind(settings, samplers.bind(settings))
