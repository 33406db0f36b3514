"""Renders shards: right base and adapters, each image from its seed.

One engine per base samples on a thread of its own; so does one per base with its distillation LoRA
merged.  Images are compared with training images and encoded on other threads; near-duplicates
are sampled again from another seed.  A reader takes the images of a shard in order.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch

from services.common.errors import FailedPrecondition
from services.common.images.codec import encode_image
from services.common.images.near_duplicates import NearDuplicateHashes
from services.common.models.diffusion_bases import (
    Base,
    TinyDecoder,
    load_pipeline,
    load_tiny_decoder,
    resolve_base,
)
from services.common.models.distilled_loras import DistillationLora
from services.common.resource_names import ADAPTERS
from services.common.store.artifacts import ArtifactStore
from services.generator.config import GeneratorSettings
from services.generator.engine.adapter_cache import AdapterCache, Weights
from services.generator.engine.denoiser import Denoiser
from services.generator.engine.engine import Engine
from services.generator.engine.solver import Solver, bespoke_steps, build_solver
from services.generator.engine.step_records import StepRecord
from services.generator.engine.streams import ImageStream, ImageTask, SamplingProgram
from services.generator.near_duplicate_filter import (
    NearDuplicateFilter,
    next_attempt,
    only_near_duplicates,
)
from services.generator.plan import (
    SynthesisPlan,
    SyntheticImage,
    extra_revisions,
    make_execution,
)
from services.generator.presets import BESPOKE, SamplerSettings, preset_of
from services.generator.reorder_buffer import ReorderBuffer
from services.generator.shards import Shard

_logger = logging.getLogger(__name__)
_EngineKey: TypeAlias = tuple[str, str, TinyDecoder | None, DistillationLora | None]
"""Name and revision of a base, tiny decoder, merged distillation LoRA."""


class ShardRenderer:
    """The engines of one replica."""

    def __init__(
        self,
        settings: GeneratorSettings,
        store: ArtifactStore,
        observe: Callable[[StepRecord], None] = lambda record: None,
    ) -> None:
        self._settings, self._store, self._observe = settings, store, observe
        self._execution = make_execution(settings)
        self._device = torch_device(settings)
        self._engines: OrderedDict[_EngineKey, Engine] = OrderedDict()
        self._lock = threading.Lock()
        self._encoder = ThreadPoolExecutor(4, "encode")
        self._near_duplicates = NearDuplicateFilter(store)

    async def warm_up(self) -> None:
        """Load the default base and sample once for the first request."""
        started = time.monotonic()
        name, models_dir = self._settings.default_base, self._settings.models_dir
        base = resolve_base(name, models_dir, "default_base")
        samplers = [SamplerSettings(2, 2.0, "dpmpp_2m")]
        if base.distillation_lora is not None:
            samplers.append(preset_of("draft", base))
        for sampler in samplers:
            plan = SynthesisPlan(
                tenant="warm_up",
                base=base.name,
                base_revision=base.revision,
                adapter=None,
                class_counts=(("myeloblast", 1),),
                seed=0,
                sampler=sampler,
                execution=self._execution,
                image_format="PNG",
                extra_revisions=extra_revisions(base, sampler),
            )
            async for _ in self.render(Shard(plan, 0, 1)):
                pass
        _logger.info("base %s is warm after %.1f s", base.name, time.monotonic() - started)

    @property
    def engines(self) -> list[Engine]:
        """The engines of all loaded bases."""
        return list(self._engines.values())

    async def render(self, shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        """Stream a shard's images in order, several at a time.

        Raises:
            NotFound: If the adapter has been deleted meanwhile.
            DataLoss: If the adapter does not fit the base.
            FailedPrecondition: If this replica's base or set-up is not the plan's, or if the
                adapter gives nothing but near-duplicates of its training images.
            Unavailable: If the engine has stopped; the rest can be rendered elsewhere.
        """
        engine, solver, hashes = await asyncio.to_thread(self._prepare, shard.plan)
        buffer = ReorderBuffer(shard.first, asyncio.get_running_loop())
        stream = self._stream(engine, solver, hashes, shard, buffer)
        engine.submit(stream)
        try:
            num_left = shard.end - shard.first
            while num_left:
                images = await buffer.next()
                num_left -= len(images)
                yield images
        finally:
            engine.cancel(stream)

    def _prepare(self, plan: SynthesisPlan) -> tuple[Engine, Solver, NearDuplicateHashes | None]:
        """Load or build what a plan needs.

        A new solver of many steps takes tenths of a second, a base seconds.
        """
        base, sampler = self._base_of(plan), plan.sampler
        hashes = self._near_duplicates.hashes(plan)
        engine = self._engine_of(base, sampler)
        if sampler.scheduler == BESPOKE:
            assert base.bespoke_solver is not None
            return engine, bespoke_steps(base.bespoke_solver), hashes
        config = engine.scheduler_config
        if sampler.distilled:
            config["timestep_spacing"] = "trailing"  # what few-step models are distilled for
        return engine, build_solver(sampler.scheduler, config, sampler.num_steps), hashes

    def _stream(
        self,
        engine: Engine,
        solver: Solver,
        hashes: NearDuplicateHashes | None,
        shard: Shard,
        buffer: ReorderBuffer,
    ) -> ImageStream:
        plan = shard.plan

        def finish(task: ImageTask, pixels: np.ndarray) -> None:
            try:
                # The pixels, not the file: JPEG would decide otherwise than PNG.
                if hashes is None or not hashes.find(pixels):
                    buffer.put(_encode(task, pixels, plan.image_format))
                    return
                retry = next_attempt(plan, task)
                if retry is None:
                    buffer.fail_at(task.index, only_near_duplicates(plan, task))
                else:
                    buffer.withhold()
                engine.withhold(stream, retry)
            except Exception as error:
                buffer.fail(error)

        def finish_later(task: ImageTask, pixels: np.ndarray) -> None:
            buffer.num_finished += 1
            self._encoder.submit(finish, task, pixels)

        tasks = (
            ImageTask(
                index, class_id, plan.image_seed(class_id, index), self._weights(plan, class_id)
            )
            for index, class_id in plan.classes_by_index(shard.first, shard.end)
        )
        stream = ImageStream(
            plan.tenant,
            plan.request_id,
            plan.interactive,
            SamplingProgram(
                solver,
                plan.sampler.guidance_scales(len(solver)),
                tiny_decoder=plan.sampler.decoder == "tiny",
            ),
            deque(tasks),
            deliver=finish_later,
            fail=buffer.fail,
        )
        return stream

    def _weights(self, plan: SynthesisPlan, class_id: str) -> Weights:
        adapter = plan.adapter
        if adapter is None:
            return Weights(class_id, (class_id,))
        path = adapter.weights_path(class_id)
        class_ids = adapter.class_ids if adapter.layout == "shared" else (class_id,)
        return Weights(
            f"{plan.tenant}/{adapter.adapter_id}/{adapter.digest}/{path}",
            class_ids,
            lambda: self._store.read(plan.tenant, ADAPTERS, adapter.adapter_id, path),
        )

    def _base_of(self, plan: SynthesisPlan) -> Base:
        base = resolve_base(plan.base, self._settings.models_dir)
        mine = (base.revision, self._execution, extra_revisions(base, plan.sampler))
        if mine != (plan.base_revision, plan.execution, plan.extra_revisions):
            problem = "this replica's copy or settings are not those of the generator's front"
            raise FailedPrecondition(f"base {base.name}", problem, "restart the generator")
        return base

    def _engine_of(self, base: Base, sampler: SamplerSettings) -> Engine:
        distillation_lora = base.distillation_lora if sampler.distilled else None
        with self._lock:
            key = (base.name, base.revision, base.tiny_decoder, distillation_lora)
            if key not in self._engines:
                self._close_idle()
                self._engines[key] = self._start(base, distillation_lora)
            self._engines.move_to_end(key)
            return self._engines[key]

    def _close_idle(self) -> None:
        for key, engine in list(self._engines.items()):
            if len(self._engines) < self._settings.generator_max_loaded_bases:
                return
            if not engine.num_streams:
                del self._engines[key]
                engine.close()

    def _start(self, base: Base, distillation_lora: DistillationLora | None) -> Engine:
        dtype = getattr(torch, self._execution.dtype)
        pipeline = load_pipeline(base, self._device, distillation_lora=distillation_lora)
        num_bytes = self._settings.generator_adapter_memory_mb * 2**20
        num_states = 2 * self._execution.batch_rows
        denoiser = Denoiser(
            pipeline,
            self._execution.batch_rows,
            num_states,
            dtype,
            self._execution.compiled,
            self._execution.decode_batch_size,
            load_tiny_decoder(base, self._device, dtype),
        )

        def interactive_elsewhere() -> bool:
            return any(other.has_interactive_work for other in self.engines if other is not engine)

        engine = Engine(
            denoiser,
            lambda wake: AdapterCache(pipeline, denoiser.lora, num_bytes, wake),
            num_states,
            self._observe,
            self._settings.generator_num_threads,
            interactive_elsewhere,
        )
        return engine


def torch_device(settings: GeneratorSettings) -> str:
    """ "cuda" or "cpu", as the settings ask or the machine has."""
    if settings.generator_device != "auto":
        return settings.generator_device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _encode(task: ImageTask, pixels: np.ndarray, image_format: str) -> SyntheticImage:
    """Encode an image, lossless but for JPEG (quality 95)."""
    height, width = pixels.shape[:2]
    data = encode_image(pixels, image_format, synthetic=True)
    return SyntheticImage(task.index, task.class_id, task.image_seed, data, width, height)
