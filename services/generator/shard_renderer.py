"""Draws shards: the right base, the right adapters, every image from its own seed.

One engine per base does the work on a thread of its own, and one per base with its distillation
LoRA merged; encoding has other threads, and so has the search for near-duplicates of training
images, which are drawn again. A reader takes the images of a shard in order, and no more is drawn
ahead of it than its window.
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
from services.generator.engine.adapter_cache import AdapterBank, Weights
from services.generator.engine.denoiser import Sampler
from services.generator.engine.engine import Engine, Order, Recipe, StepRecord, Stream
from services.generator.engine.solver import Solver, bespoke_steps, build_solver
from services.generator.near_duplicate_filter import NearDuplicateFilter, next_attempt, only_copies
from services.generator.plan import (
    DrawnImage,
    ImageTask,
    SynthesisPlan,
    extra_revisions,
    make_execution,
)
from services.generator.presets import BESPOKE, SamplerSettings, preset_of
from services.generator.reorder_buffer import Reader
from services.generator.shards import Shard

_logger = logging.getLogger(__name__)
_EngineKey: TypeAlias = tuple[str, str, TinyDecoder | None, DistillationLora | None]
"""Name and revision of a base, its tiny decoder, and the distillation LoRA merged into its UNet."""


class Drawer:
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
        self._gate = NearDuplicateFilter(store)

    async def warm_up(self) -> None:
        """Load the default base and draw once, so that the first request finds all ready."""
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
            async for _ in self.draw(Shard(plan, 0, 1)):
                pass
        _logger.info("base %s is warm after %.1f s", base.name, time.monotonic() - started)

    @property
    def engines(self) -> list[Engine]:
        """Of all loaded bases."""
        return list(self._engines.values())

    async def draw(self, shard: Shard) -> AsyncGenerator[list[DrawnImage], None]:
        """Stream a shard's images in order, several at a time if the reader is slower.

        Raises:
            NotFound: If the adapter has been deleted meanwhile.
            DataLoss: If the adapter does not fit the base.
            FailedPrecondition: If this replica's base or set-up is not the plan's, or if the
                adapter draws nothing but near-duplicates of its training images.
            Unavailable: If the engine has stopped; the rest can be drawn elsewhere.
        """
        engine, solver, hashes = await asyncio.to_thread(self._prepare, shard.plan)
        reader = Reader(shard, asyncio.get_running_loop())
        stream = self._stream(engine, solver, hashes, shard, reader)
        engine.submit(stream)
        try:
            num_left = shard.end - shard.first
            while num_left:
                images = await reader.next()
                engine.taken(stream, len(images))
                num_left -= len(images)
                yield images
        finally:
            engine.cancel(stream)

    def _prepare(self, plan: SynthesisPlan) -> tuple[Engine, Solver, NearDuplicateHashes | None]:
        """May load a base, and takes tenths of a second for a new solver of many steps."""
        base, sampler = self._base_of(plan), plan.sampler
        hashes = self._gate.hashes(plan)
        engine = self._engine_of(base, sampler)
        if sampler.scheduler == BESPOKE:
            assert base.bespoke_solver is not None
            return engine, bespoke_steps(base.bespoke_solver), hashes
        config = engine.scheduler_config
        if sampler.accelerated:
            config["timestep_spacing"] = "trailing"  # what few-step models are distilled for
        return engine, build_solver(sampler.scheduler, config, sampler.num_steps), hashes

    def _stream(
        self,
        engine: Engine,
        solver: Solver,
        hashes: NearDuplicateHashes | None,
        shard: Shard,
        reader: Reader,
    ) -> Stream:
        plan = shard.plan

        def finish(order: Order, array: np.ndarray) -> None:
            try:
                # The pixels, not the file: JPEG would decide otherwise than PNG.
                if hashes is None or not hashes.find(array):
                    reader.put(_encode(order, array, plan.image_format))
                    return
                again = next_attempt(plan, order)
                if again is None:
                    reader.fail_at(order.index, only_copies(plan, order))
                else:
                    reader.withheld()
                engine.withhold(stream, again)
            except Exception as error:
                reader.fail(error)

        def finish_later(order: Order, array: np.ndarray) -> None:
            reader.num_finished += 1
            self._encoder.submit(finish, order, array)

        stream = Stream(
            plan.tenant,
            plan.request_id,
            plan.interactive,
            recipe=Recipe(
                solver,
                plan.sampler.guidance_scales(len(solver)),
                tiny_decoder=plan.sampler.decoder == "tiny",
            ),
            orders=deque(self._order(plan, task) for task in plan.tasks(shard.first, shard.end)),
            window=self._settings.generator_window_num_images,
            deliver=finish_later,
            fail=reader.fail,
        )
        return stream

    def _order(self, plan: SynthesisPlan, task: ImageTask) -> Order:
        return Order(task.index, task.class_id, task.image_seed, self._weights(plan, task.class_id))

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
        distillation_lora = base.distillation_lora if sampler.accelerated else None
        with self._lock:
            key = (base.name, base.revision, base.tiny_decoder, distillation_lora)
            if key not in self._engines:
                self._give_up_idle()
                self._engines[key] = self._start(base, distillation_lora)
            self._engines.move_to_end(key)
            return self._engines[key]

    def _give_up_idle(self) -> None:
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
        num_states = 2 * self._execution.num_slots
        sampler = Sampler(
            pipeline,
            self._execution.num_slots,
            num_states,
            dtype,
            self._execution.compiled,
            self._execution.decode_batch_size,
            load_tiny_decoder(base, self._device, dtype),
            self._settings.generator_cuda_graphs,
        )
        engine: Engine = Engine(
            sampler,
            lambda wake: AdapterBank(pipeline, sampler.lora, num_bytes, wake),
            num_states,
            self._observe,
            self._settings.generator_num_threads,
            lambda: any(other.hurries for other in self.engines if other is not engine),
        )
        return engine


def torch_device(settings: GeneratorSettings) -> str:
    """ "cuda" or "cpu", as the settings ask or the machine has."""
    if settings.generator_device != "auto":
        return settings.generator_device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _encode(order: Order, image: np.ndarray, image_format: str) -> DrawnImage:
    """The image as a file: PNG and WebP keep every bit, JPEG (quality 95) does not."""
    height, width = image.shape[:2]
    data = encode_image(image, image_format, synthetic=True)
    return DrawnImage(order.index, order.class_id, order.image_seed, data, width, height)
