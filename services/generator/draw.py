"""Draws planned batches: the right base, the right adapter, every image in its own slot."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from services.common.artifact_store import ArtifactStore
from services.common.bases import Base, load_pipeline, resolve_base
from services.common.errors import FailedPrecondition
from services.common.images import encode_image
from services.common.resource_names import ADAPTERS
from services.generator.adapters import AdapterShelf
from services.generator.config import GeneratorSettings
from services.generator.sampler import Sampler, Slot
from services.generator.synthesize import (
    DrawnImage,
    ImageTask,
    SamplerSettings,
    SynthesisPlan,
    make_execution,
)

_logger = logging.getLogger(__name__)


@dataclass
class _Loaded:
    """A base in memory: its pipeline's adapters and its sampler."""

    shelf: AdapterShelf
    sampler: Sampler


class BatchDrawer:
    """Loads what a plan asks for and draws its batches. Use from one thread."""

    def __init__(self, settings: GeneratorSettings, store: ArtifactStore) -> None:
        self._settings, self._store = settings, store
        self._execution = make_execution(settings)
        self._device = torch_device(settings)
        self._loaded: OrderedDict[tuple[str, str], _Loaded] = OrderedDict()
        if settings.generator_num_threads:
            torch.set_num_threads(settings.generator_num_threads)

    def warm_up(self) -> None:
        """Load the default base and draw one image, so that the first request finds all ready."""
        started = time.monotonic()
        base = resolve_base(self._settings.default_base, self._settings.models_dir, "default_base")
        loaded = self._load(base)
        unconditional = loaded.shelf.prompt(None)
        quick = SamplerSettings(num_steps=2, guidance_scale=2.0, scheduler="dpmpp_2m")
        loaded.sampler.draw([Slot(0, unconditional)], unconditional, quick)
        _logger.info("base %s is warm after %.1f s", base.name, time.monotonic() - started)

    def draw(
        self,
        plan: SynthesisPlan,
        batch: Sequence[ImageTask],
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[np.ndarray]:
        """Draw one batch of :meth:`SynthesisPlan.batches`.

        Args:
            plan: The request.
            batch: Images that share weights and whose slots differ.
            stopped: Asked before every denoising step.

        Returns:
            uint8 images (H, W, 3), in the order of ``batch``.

        Raises:
            Cancelled: If ``stopped`` said so.
            NotFound: If the adapter has been deleted meanwhile.
            FailedPrecondition: If this replica's base or set-up is not the plan's.
        """
        base = resolve_base(plan.base, self._settings.models_dir)
        if (base.revision, self._execution) != (plan.base_revision, plan.execution):
            problem = "this replica's copy or settings are not those of the generator's front"
            raise FailedPrecondition(f"base {base.name}", problem, "restart the generator")
        loaded = self._load(base)
        self._activate(loaded.shelf, plan, batch[0].class_id)
        unconditional = loaded.shelf.prompt(None)
        slots: list[Slot | None] = [None] * self._execution.batch_size
        places = [task.index % self._execution.batch_size for task in batch]
        for place, task in zip(places, batch, strict=True):
            slots[place] = Slot(task.image_seed, loaded.shelf.prompt(task.class_id))
        images = loaded.sampler.draw(slots, unconditional, plan.sampler, stopped)
        return [image for image in (images[place] for place in places) if image is not None]

    def _activate(self, shelf: AdapterShelf, plan: SynthesisPlan, class_id: str) -> None:
        if plan.adapter is None:
            shelf.activate("", lambda: b"")
            return
        adapter_id, path = plan.adapter.adapter_id, plan.adapter.weights_path(class_id)
        shelf.activate(
            f"{plan.adapter.digest}/{path}",
            lambda: self._store.read(plan.tenant, ADAPTERS, adapter_id, path),
        )

    def _load(self, base: Base) -> _Loaded:
        key = (base.name, base.revision)
        if key not in self._loaded:
            while len(self._loaded) >= self._settings.generator_max_loaded_bases:
                self._loaded.popitem(last=False)
            dtype = getattr(torch, self._execution.dtype)
            # On CUDA the weights themselves are narrow; a CPU keeps float32 and autocasts.
            weights_dtype = dtype if self._device == "cuda" else torch.float32
            pipeline = load_pipeline(base, self._device, weights_dtype)
            self._loaded[key] = _Loaded(
                AdapterShelf(pipeline, self._settings.generator_max_loaded_adapters),
                Sampler(pipeline, self._execution.batch_size, dtype),
            )
        self._loaded.move_to_end(key)
        return self._loaded[key]


def torch_device(settings: GeneratorSettings) -> str:
    """ "cuda" or "cpu", as the settings ask or the machine has."""
    if settings.generator_device != "auto":
        return settings.generator_device
    return "cuda" if torch.cuda.is_available() else "cpu"


def encode(task: ImageTask, image: np.ndarray, image_format: str) -> DrawnImage:
    """The image as a file: PNG and WebP keep every bit, JPEG (quality 95) does not."""
    height, width = image.shape[:2]
    data = encode_image(image, image_format)
    return DrawnImage(task.index, task.class_id, task.image_seed, data, width, height)
