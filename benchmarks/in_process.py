"""The generator without gRPC or Ray: its own engine in this process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from services.common.artifact_store import ArtifactStore
from services.common.bases import resolve_base
from services.generator.adapters import describe_adapter
from services.generator.config import GeneratorSettings
from services.generator.draw import Drawer
from services.generator.shards import Shard, cut
from services.generator.synthesize import (
    DrawnImage,
    SamplerSettings,
    SynthesisPlan,
    SynthesisRequest,
    make_execution,
    make_plan,
)


class InProcess:
    """Draws as a replica does; every call waits for its images."""

    def __init__(self, store_uri: str = "memory://benchmarks", models_dir: Path = Path("models")):
        self.settings = GeneratorSettings(store_uri=store_uri, models_dir=models_dir)
        self.store = ArtifactStore(store_uri)
        self.drawer = Drawer(self.settings, self.store)

    def plan(
        self,
        class_counts: Mapping[str, int],
        sampler: SamplerSettings,
        base: str,
        adapter_id: str = "",
        seed: int = 0,
    ) -> SynthesisPlan:
        """A checked request, with these settings instead of a preset's."""
        adapter = describe_adapter(self.store, "local", adapter_id) if adapter_id else None
        request = SynthesisRequest(
            list(class_counts.items()),
            seed=seed,
            num_steps=sampler.num_steps,
            guidance_scale=sampler.guidance_scale,
            scheduler=sampler.scheduler,
            guidance_start=sampler.guidance_start,
            guidance_stop=sampler.guidance_stop,
        )
        found = resolve_base(base, self.settings.models_dir)
        return make_plan(request, "local", found, adapter, make_execution(self.settings), 10**6)

    def draw(self, plans: Sequence[SynthesisPlan]) -> list[DrawnImage]:
        """The images of all plans at once, each plan's in order."""
        return asyncio.run(self._draw(plans))

    async def _draw(self, plans: Sequence[SynthesisPlan]) -> list[DrawnImage]:
        async def one(shard: Shard) -> list[DrawnImage]:
            return [image async for batch in self.drawer.draw(shard) for image in batch]

        num = self.settings.generator_shard_num_images
        shards = [shard for plan in plans for shard in cut(plan, num)]
        return [image for images in await asyncio.gather(*map(one, shards)) for image in images]


def pixels(image: DrawnImage) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))
