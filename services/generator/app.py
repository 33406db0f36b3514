"""The generator as a Ray Serve application.

    client ──gRPC──▶ Generator (front: checks, plans, orders) ──shards──▶ SamplerReplica × N

The front knows no torch; a sampler replica that dies is replaced, and its images replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from prometheus_client import Gauge
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from cytosynth import traces
from services.common.errors import DomainError, Unavailable
from services.common.exposition import GAUGE_OF_ALL, expose
from services.common.logs import configure_logging, request_id_var
from services.common.rpc.call_slots import CallSlots
from services.common.rpc.handlers import metrics_observer, set_observer
from services.common.rpc.server import SHUTDOWN_SECONDS, Listen, ServedReplica
from services.generator.autoscale import (
    BACKLOG_METRIC,
    REPORT_SECONDS,
    RequestBacklog,
    front_autoscaling,
    sampler_autoscaling,
)
from services.generator.config import GeneratorSettings
from services.generator.plan import SynthesisPlan, SyntheticImage
from services.generator.replica import SamplerReplica
from services.generator.service import GeneratorService
from services.generator.shards import FairGate, Shard, cut, stream_in_order

APP_NAME = "generator"
SAMPLER_NAME = "SamplerReplica"
_LOSSES = (RayActorError, WorkerCrashedError, DeploymentUnavailableError)
_HEALTH: dict[str, Any] = {"health_check_period_s": 1.0, "health_check_timeout_s": 30.0}


class Generator(GeneratorService, ServedReplica):
    """The front: gRPC in, shards out, images in order back."""

    def __init__(
        self, settings: GeneratorSettings, samplers: DeploymentHandle, listen: Listen | None
    ) -> None:
        configure_logging()
        traces.start(settings.traces_endpoint, APP_NAME)
        expose(APP_NAME, settings)
        set_observer(*metrics_observer(APP_NAME))
        super().__init__(settings, self._stream)
        self._render = samplers.options(stream=True).render
        self._owed: dict[str, RequestBacklog] = {}
        self._gate = FairGate(
            settings.generator_shards_per_replica * max(1, settings.generator_min_replicas)
        )
        self._watching: asyncio.Task[None] | None = None
        self._backlog = Gauge(
            "cytosynth_generator_backlog_evaluations",
            "UNet evaluations that the front still owes to readers.",
            multiprocess_mode=GAUGE_OF_ALL,
            registry=None,
        )
        threading.Thread(target=self._tell_backlog, name="backlog", daemon=True).start()
        limit = settings.generator_max_concurrent_requests
        self.serve([APP_NAME], listen, settings.max_message_bytes, CallSlots(limit, limit))

    async def _stream(self, plan: SynthesisPlan) -> AsyncGenerator[SyntheticImage, None]:
        settings = self._settings
        images = stream_in_order(
            cut(plan, settings.generator_shard_num_images),
            self._render_shard,
            is_lost_replica,
            settings.generator_shards_per_replica * settings.generator_max_replicas,
            settings.generator_recovery_seconds,
        )
        self._watching = self._watching or asyncio.create_task(self._watch_replicas())
        num_images = plan.num_images - plan.first_index
        self._owed[plan.request_id] = owed = RequestBacklog(num_images, plan.evaluations_per_image)
        try:
            async with contextlib.aclosing(images):
                async for image in images:
                    owed.hand_over()
                    yield image
                    owed.taken()
        finally:
            del self._owed[plan.request_id]

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Report the backlog to Serve's autoscaling."""
        return {BACKLOG_METRIC: self._backlog_evaluations()}

    def _backlog_evaluations(self) -> float:
        return float(sum(owed.evaluations for owed in [*self._owed.values()]))

    def _tell_backlog(self) -> None:
        while True:
            self._backlog.set(self._backlog_evaluations())
            time.sleep(REPORT_SECONDS)

    async def _render_shard(self, shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        tenant = shard.plan.tenant
        entrance = contextlib.nullcontext() if shard.plan.interactive else self._gate.inside(tenant)
        async with entrance:
            told = replace(
                shard,
                request_id=request_id_var.get(),
                traceparent=traces.traceparent_var.get(),
            )
            batches = self._render.remote(told)
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
        """Let as much bulk work through as running replicas can use."""
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
    """Whether a replica went away, rather than its work failing."""
    return isinstance(error, (*_LOSSES, Unavailable))


def build_app(
    settings: GeneratorSettings | None = None, listen: Listen | None = None
) -> serve.Application:
    """The Serve graph: one front, and samplers that follow its backlog."""
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
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=SHUTDOWN_SECONDS,
        **num_fronts,
        **_HEALTH,
    )
    return front.bind(settings, samplers.bind(settings), listen)
