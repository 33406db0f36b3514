"""Batched LoRA: every row is what diffusers and peft give alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from services.common.models import lora
from services.common.models.diffusion_bases import Base, load_pipeline, resolve_base
from services.common.models.pipelines import encode_prompts, image_size
from services.generator.engine.batched_lora import BatchedLora, LoraPair
from services.generator.engine.row_tables import EMPTY
from tests.support import fakes
from tests.support.studio import EVERYTHING, make_lora

PROMPT = "a microscopic image of a single monocyte"
ATTENTION_SPEC = lora.LoraSpec(rank=4, alpha=4.0)
SPECS = {
    "attention": ATTENTION_SPEC,
    "attention-rank-40": replace(ATTENTION_SPEC, rank=40, alpha=10.0),
    "unet-only": replace(ATTENTION_SPEC, rank=8, alpha=8.0, text_targets=()),
    "everything-rank-4": lora.LoraSpec(4, 8.0, EVERYTHING),
    "everything-rank-16": lora.LoraSpec(16, 4.0, EVERYTHING),
    "everything-rank-40": lora.LoraSpec(40, 60.0, EVERYTHING),
}
BASES = ("tiny", "tiny-xl")


@lru_cache(maxsize=32)
def lora_file(base: Base, name: str) -> bytes:
    """A random LoRA of one of ``SPECS``, made once."""
    return make_lora(base, SPECS[name], seed=sorted(SPECS).index(name), scale=0.1)


def noise_of(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and timesteps, other ones in each row."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num_rows, 16, 4, 4, generator=generator), torch.linspace(20, 980, num_rows)


def added(pipeline, pooled: torch.Tensor | None) -> dict:
    """Inputs of SDXL's UNet besides the tokens."""
    if pooled is None:
        return {}
    side = image_size(pipeline)
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
    time_ids = time_ids.expand(len(pooled), -1)
    return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids}}


@torch.inference_mode()
def reference(base: Base, data: bytes | None, num_rows: int) -> torch.Tensor:
    """All rows with one adapter, by diffusers and peft."""
    pipeline = load_pipeline(base)
    if data is not None:
        fakes.load_lora(pipeline, data)
    prompt = encode_prompts(pipeline, [PROMPT] * num_rows)
    latents, timesteps = noise_of(num_rows)
    extra = added(pipeline, prompt.pooled)
    return pipeline.unet(latents, timesteps, prompt.tokens, **extra).sample


@dataclass
class Mixed:
    """A UNet whose rows can use any of a base's LoRA files."""

    base: Base
    num_rows: int = 8

    def __post_init__(self) -> None:
        self.pipeline = load_pipeline(self.base)
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.lora = BatchedLora(self.pipeline.unet, self.num_rows, fakes.NUM_TOKENS)
        self.put(EMPTY, 9, None)

    @torch.inference_mode()
    def put(self, adapter: int, prompt: int, data: bytes | None) -> None:
        """Load a file as entry ``adapter``, with its prompt as entry ``prompt``."""
        pairs = lora.read_lora(self.pipeline, data) if data is not None else {}
        prepared = self.lora.prepare({name: LoraPair(*pair) for name, pair in pairs.items()})
        if adapter != EMPTY:
            self.lora.put_adapter(adapter, prepared)
        [embeddings] = lora.encode_with_lora(self.pipeline, data, [PROMPT])
        self.lora.put_prompt(prompt, embeddings, prepared)

    @torch.inference_mode()
    def predict(self, entries: list[int]) -> torch.Tensor:
        """UNet output; row i uses adapter ``entries[i]``."""
        self.lora.select(entries, [entry or 9 for entry in entries])
        conditions = self.lora.conditions(len(entries))
        latents, timesteps = noise_of(len(entries))
        latents = latents.contiguous(memory_format=torch.channels_last)
        extra = added(self.pipeline, conditions.get("pooled"))
        return self.pipeline.unet(latents, timesteps, conditions["tokens"], **extra).sample


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("base_name", BASES)
def test_each_row_is_what_its_adapter_alone_gives(models_dir: Path, base_name: str) -> None:
    base = resolve_base(base_name, models_dir)
    mixed = Mixed(base)
    for entry, name in enumerate(SPECS, 1):
        mixed.put(entry, entry, lora_file(base, name))
    entries = [3, EMPTY, 6, 1, 5, EMPTY, 2, 4]
    output = mixed.predict(entries)
    plain = reference(base, None, len(entries))
    for row, entry in enumerate(entries):
        data = lora_file(base, list(SPECS)[entry - 1]) if entry else None
        alone = reference(base, data, len(entries))
        assert difference(output[row], alone[row]) <= 1e-5, entry
        assert not entry or difference(alone[row], plain[row]) > 1e-2, entry


@pytest.mark.parametrize("base_name", BASES)
def test_rows_without_an_adapter_are_the_base(models_dir: Path, base_name: str) -> None:
    base = resolve_base(base_name, models_dir)
    mixed = Mixed(base)
    plain = reference(base, None, 4)
    assert difference(mixed.predict([EMPTY] * 4), plain) <= 1e-5
    mixed.put(1, 1, lora_file(base, "everything-rank-16"))
    output = mixed.predict([EMPTY, 1, EMPTY, EMPTY])
    assert difference(output[[0, 2, 3]], plain[[0, 2, 3]]) <= 1e-5
    before = mixed.predict([EMPTY] * 4)
    mixed.lora.fixed_kernels = True
    assert torch.equal(mixed.predict([EMPTY] * 4), before)


def test_an_entry_filled_again_keeps_nothing_of_what_it_was(models_dir: Path) -> None:
    base = resolve_base("tiny", models_dir)
    mixed = Mixed(base)
    mixed.put(1, 1, lora_file(base, "everything-rank-40"))
    mixed.predict([1, 1])
    mixed.put(1, 1, lora_file(base, "attention"))
    alone = reference(base, lora_file(base, "attention"), 2)
    assert difference(mixed.predict([1, 1]), alone) <= 1e-5


def test_structure_grows_only_when_layers_get_their_first_lora_of_a_rank(models_dir: Path) -> None:
    base = resolve_base("tiny", models_dir)
    mixed = Mixed(base)
    structures = [mixed.lora.structure]
    for entry, name in (
        (1, "attention"),
        (2, "unet-only"),
        (3, "attention-rank-40"),
        (1, "attention"),
    ):
        mixed.put(entry, entry, lora_file(base, name))
        structures.append(mixed.lora.structure)
    assert structures[0] == 0 < structures[1] == structures[2] < structures[3] == structures[4]


def test_a_file_without_metadata_reads_the_same(models_dir: Path) -> None:
    base = resolve_base("tiny", models_dir)
    [data] = fakes.random_lora(models_dir / "tiny", seed=1, rank=4, scale=0.1).values()
    mixed = Mixed(base)
    mixed.put(1, 1, data)
    assert difference(mixed.predict([1, 1]), reference(base, data, 2)) <= 1e-5


def test_text_encoders_are_left_as_they_were(models_dir: Path) -> None:
    for base_name in BASES:
        base = resolve_base(base_name, models_dir)
        pipeline = load_pipeline(base)
        [before] = lora.encode_with_lora(pipeline, None, [PROMPT])
        [with_lora] = lora.encode_with_lora(pipeline, lora_file(base, "attention"), [PROMPT])
        [after] = lora.encode_with_lora(pipeline, None, [PROMPT])
        assert torch.equal(before.tokens, after.tokens)
        assert difference(before.tokens, with_lora.tokens) > 1e-3
        with pytest.raises(OSError, match="Unable to load"):
            lora.encode_with_lora(pipeline, b"no safetensors", [PROMPT])
        assert torch.equal(lora.encode_with_lora(pipeline, None, [PROMPT])[0].tokens, after.tokens)


@pytest.mark.parametrize(
    ("name", "down", "up", "problem"),
    [
        ("mid_block.nowhere", (4, 16), (16, 4), "no linear or convolution"),
        ("mid_block.resnets.0.norm1", (4, 16), (16, 4), "no linear or convolution"),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
            (4, 17),
            (16, 4),
            "other shapes",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
            (4, 16),
            (16, 5),
            "other shapes",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
            (4, 32),
            (16, 4),
            "other shapes",
        ),
        ("mid_block.resnets.0.conv1", (4, 16, 1, 1), (16, 4), "other shapes"),
    ],
)
def test_misfits_are_refused_also_after_other_adapters(
    models_dir: Path, name: str, down: tuple[int, ...], up: tuple[int, ...], problem: str
) -> None:
    base = resolve_base("tiny", models_dir)
    mixed = Mixed(base)
    misfit = {name: LoraPair(torch.zeros(down), torch.zeros(up))}
    with pytest.raises(ValueError, match=problem):
        mixed.lora.prepare(misfit)
    mixed.put(1, 1, lora_file(base, "everything-rank-4"))
    with pytest.raises(ValueError, match=problem):
        mixed.lora.prepare(misfit)


def test_convolutions_that_cannot_have_lora_per_row_are_refused_at_once(models_dir: Path) -> None:
    mixed = Mixed(resolve_base("tiny", models_dir))
    conv = mixed.pipeline.unet.mid_block.resnets[0].conv1
    conv.dilation = (2, 2)
    name, rank = "mid_block.resnets.0.conv1", 4
    down = torch.zeros(rank, *conv.weight.shape[1:])
    with pytest.raises(ValueError, match=f"{name} is a convolution of a kind"):
        mixed.lora.prepare({name: LoraPair(down, torch.zeros(conv.out_channels, rank))})


def test_dora_is_refused(models_dir: Path) -> None:
    from peft import LoraConfig

    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    config = LoraConfig(r=4, target_modules=["to_q"], use_dora=True)
    pipeline.unet.add_adapter(config, adapter_name=lora.ADAPTER_NAME)
    data = lora.lora_file(pipeline)
    with pytest.raises(ValueError, match=r"DoRA|dora"):
        lora.read_lora(load_pipeline(resolve_base("tiny", models_dir)), data)
