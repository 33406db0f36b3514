"""Two shard renderers over one store, as in two replicas."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from services.common.images.codec import decode_image
from services.common.images.near_duplicates import NEAR_DUPLICATE_HASHES, NearDuplicateHashes
from services.common.models import lora
from services.common.models.diffusion_bases import resolve_base
from services.common.store.artifacts import ArtifactStore
from services.generator.adapter_manifest import describe_adapter
from services.generator.config import GeneratorSettings
from services.generator.plan import SynthesisPlan, SyntheticImage, make_execution, make_plan
from services.generator.request import SynthesisRequest
from services.generator.shard_renderer import ShardRenderer
from services.generator.shards import Shard
from tests.support import fakes
from tests.support.studio import CLASSES, EVERYTHING, make_lora

SPEC = lora.LoraSpec(8, 16.0, EVERYTHING)


class Replicas:
    """Shard renderers over a store with one shared and one per-class adapter."""

    def __init__(self, root: Path) -> None:
        models_dir = root / "models"
        for name in ("tiny", "second"):
            fakes.write_tiny_base(models_dir, name, seed=len(name))
        fakes.write_tiny_decoder(models_dir / "tiny")
        self.bespoke = fakes.bespoke_solver()
        fakes.write_bespoke_solver(models_dir / "tiny", self.bespoke)
        self.distillation_lora = fakes.write_distillation_lora(models_dir / "tiny").read_bytes()
        self.settings = GeneratorSettings(
            store_uri=f"file://{root}/store",
            models_dir=models_dir,
            default_base="tiny",
            generator_num_slots=8,
            generator_dtype="float32",
            generator_device="cpu",
            generator_max_loaded_bases=2,
        )
        self.store = ArtifactStore(self.settings.store_uri)
        self.base = resolve_base("tiny", models_dir)
        self.loras = [make_lora(self.base, SPEC, seed) for seed in range(3)]
        self.write("one", "shared", {"shared": self.loras[0]})
        self.write("each", "per_class", dict(zip(CLASSES, self.loras[1:], strict=True)))
        self.renderers = [ShardRenderer(self.settings, self.store) for _ in range(2)]

    def write(
        self,
        adapter_id: str,
        layout: str,
        files: dict[str, bytes],
        hashes: NearDuplicateHashes | None = None,
    ) -> None:
        draft = self.store.new_draft("local", "adapters", adapter_id)
        for folder, data in files.items():
            draft.write(f"{folder}/{lora.WEIGHTS_FILE}", data)
        if hashes is not None:
            draft.write(NEAR_DUPLICATE_HASHES, hashes.to_json())
        body = {"layout": layout, "class_ids": list(CLASSES)}
        draft.commit({"base": "tiny", "base_revision": self.base.revision, "body": body})

    def plan(self, adapter_id: str | None, **fields: object) -> SynthesisPlan:
        adapter = describe_adapter(self.store, "local", adapter_id) if adapter_id else None
        counts = [(CLASSES[0], 5), (CLASSES[1], 4)]
        request = SynthesisRequest(**({"class_counts": counts, "num_steps": 3} | fields))  # type: ignore[arg-type]
        return make_plan(request, "local", self.base, adapter, make_execution(self.settings), 100)

    def close(self) -> None:
        for renderer in self.renderers:
            for engine in renderer.engines:
                engine.close()


async def collect(renderer: ShardRenderer, shard: Shard) -> list[SyntheticImage]:
    return [image async for batch in renderer.render(shard) for image in batch]


def render(renderer: ShardRenderer, *shards: Shard) -> list[list[SyntheticImage]]:
    """All shards at once."""

    async def run() -> list[list[SyntheticImage]]:
        return await asyncio.gather(*(collect(renderer, shard) for shard in shards))

    return asyncio.run(run())


def pixels(image: SyntheticImage) -> np.ndarray:
    return np.asarray(decode_image(image.data, "image")).astype(int)
