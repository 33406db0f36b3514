"""The generator without gRPC or Ray, in one process or several."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from services.common.models.diffusion_bases import resolve_base
from services.common.models.lora import WEIGHTS_FILE
from services.common.store.artifacts import ArtifactStore
from services.generator.adapter_manifest import describe_adapter
from services.generator.config import GeneratorSettings
from services.generator.plan import (
    SynthesisPlan,
    SyntheticImage,
    extra_revisions,
    make_execution,
    make_plan,
)
from services.generator.presets import PRESETS, SamplerSettings, preset_of
from services.generator.request import SynthesisRequest
from services.generator.shard_renderer import ShardRenderer
from services.generator.shards import Shard, cut

MODELS = Path("models")
BASE = "cyto-small"


class InProcess:
    """One replica's renderer; every call waits for its images."""

    def __init__(self, store_uri: str = "memory://benchmarks", models_dir: Path = MODELS):
        self.settings = GeneratorSettings(store_uri=store_uri, models_dir=models_dir)
        self.store = ArtifactStore(store_uri)
        self.renderer = ShardRenderer(self.settings, self.store)

    def plan(
        self,
        class_counts: Mapping[str, int],
        sampler: SamplerSettings,
        base: str,
        adapter_id: str = "",
        seed: int = 0,
    ) -> SynthesisPlan:
        """A checked request, with these settings instead of a preset's."""
        found = resolve_base(base, self.settings.models_dir)
        adapter = describe_adapter(self.store, "local", adapter_id) if adapter_id else None
        request = SynthesisRequest(list(class_counts.items()), seed=seed)
        plan = make_plan(request, "local", found, adapter, make_execution(self.settings), 10**6)
        extras = extra_revisions(found, sampler)
        return replace(plan, sampler=sampler, extra_revisions=extras)

    def generate(self, plans: Sequence[SynthesisPlan]) -> list[SyntheticImage]:
        """The images of all plans at once, each plan's in order."""
        return asyncio.run(self._generate(plans))

    async def _generate(self, plans: Sequence[SynthesisPlan]) -> list[SyntheticImage]:
        async def one(shard: Shard) -> list[SyntheticImage]:
            return [image async for batch in self.renderer.render(shard) for image in batch]

        num = self.settings.generator_shard_num_images
        shards = [shard for plan in plans for shard in cut(plan, num)]
        return [image for images in await asyncio.gather(*map(one, shards)) for image in images]


def preset_on_base(name: str) -> SamplerSettings:
    """The preset's settings on ``BASE``."""
    return preset_of(name, resolve_base(BASE, MODELS))


class Engines:
    """Processes with an engine each, all sampling at once; idle between calls."""

    def __init__(self, num_processes: int, base: str, files: dict[str, bytes]) -> None:
        """``files``: LoRA files by class, which become the adapter ``bench``."""
        self._num, self._base = num_processes, base
        self._classes = list(files)
        self._pool = ProcessPoolExecutor(
            num_processes, get_context("spawn"), _start_engine, (base, files)
        )

    def __enter__(self) -> Self:
        self.images_per_second(dict.fromkeys(self._classes[:2], 4), PRESETS["balanced"])
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def images_per_second(self, class_counts: dict[str, int], sampler: SamplerSettings) -> float:
        """Rate of all engines together, with the adapter ``bench``."""
        started = time.monotonic()
        return len(self.generate(class_counts, sampler, "bench")) / (time.monotonic() - started)

    def generate(
        self,
        class_counts: dict[str, int],
        sampler: SamplerSettings,
        adapter_id: str = "",
        replicate: int = 0,
    ) -> list[SyntheticImage]:
        """Images of each class; processes and replicates have their own seeds."""
        tasks = []
        for i in range(self._num):
            share = {c: (n + i) // self._num for c, n in class_counts.items()}
            seed = replicate * self._num + i
            tasks.append(self._pool.submit(_generate, share, sampler, self._base, adapter_id, seed))
        return [image for task in tasks for image in task.result()]


_studio: InProcess | None = None  # of a worker process of ``Engines``


def _start_engine(base: str, files: dict[str, bytes]) -> None:
    global _studio
    _studio = InProcess()
    store_adapters(_studio.store, base, files)


def _generate(
    class_counts: dict[str, int],
    sampler: SamplerSettings,
    base: str,
    adapter_id: str,
    seed: int,
) -> list[SyntheticImage]:
    assert _studio is not None
    plan = _studio.plan(class_counts, sampler, base, adapter_id, seed)
    return _studio.generate([plan])


def store_adapters(store: ArtifactStore, base_name: str, files: dict[str, bytes]) -> None:
    """Store adapters: ``bench``, a LoRA per class; ``bench0`` …, for all classes."""
    class_ids = list(files)
    base = {"base": base_name, "base_revision": resolve_base(base_name, MODELS).revision}
    draft = store.new_draft("local", "adapters", "bench")
    for class_id, data in files.items():
        draft.write(f"{class_id}/{WEIGHTS_FILE}", data)
    draft.commit({**base, "body": {"layout": "per_class", "class_ids": class_ids}})
    for i, data in enumerate(files.values()):
        draft = store.new_draft("local", "adapters", f"bench{i}")
        draft.write(f"shared/{WEIGHTS_FILE}", data)
        draft.commit({**base, "body": {"layout": "shared", "class_ids": class_ids}})


def pixels(image: SyntheticImage) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))
