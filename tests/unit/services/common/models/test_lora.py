"""LoRA files: diffusers' own format, read back to the same model."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

from services.common.models import lora
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.pipelines import encode_prompts
from tests.support.fakes import load_lora

SPEC = lora.LoraSpec(
    rank=3,
    alpha=6.0,
    unet_targets=lora.ATTENTION + lora.CONVOLUTIONS + lora.PROJECTIONS,
)


def predict(pipeline) -> torch.Tensor:
    """Output of the UNet for fixed noise and one prompt."""
    noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    prompt = encode_prompts(pipeline, ["a microscopic image of a single basophil"])
    extra = {}
    if prompt.pooled is not None:
        time_ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
        extra = {"added_cond_kwargs": {"text_embeds": prompt.pooled, "time_ids": time_ids}}
    with torch.no_grad():
        return pipeline.unet(noise, 300, prompt.tokens, **extra).sample


def shake(parameters: dict[str, torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(5)
    for parameter in parameters.values():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("base_name", ["tiny", "tiny-xl"])
def test_a_written_lora_loads_to_the_same_model(models_dir: Path, base_name: str) -> None:
    base = resolve_base(base_name, models_dir)
    trained = load_pipeline(base)
    before = predict(trained)
    parameters = lora.add_lora(trained, SPEC, seed=1)
    assert torch.equal(predict(trained), before), "a fresh LoRA must change nothing"
    shake(parameters)
    after = predict(trained)
    assert not torch.allclose(after, before, atol=1e-3)

    data = lora.lora_file(trained)
    fresh = load_pipeline(base)
    load_lora(fresh, data)
    assert torch.allclose(predict(fresh), after, atol=1e-5)


def test_the_file_holds_rank_alpha_and_targets(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    lora.add_lora(pipeline, SPEC, seed=1)
    data = lora.lora_file(pipeline)
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    metadata = json.loads(header["__metadata__"]["lora_adapter_metadata"])
    assert metadata["unet.r"] == 3
    assert metadata["text_encoder.lora_alpha"] == 6.0
    shapes = [entry["shape"] for name, entry in header.items() if "conv1.lora_A" in name]
    assert shapes and all(shape[0] == 3 for shape in shapes)


def test_lora_reaches_convolutions_and_text_encoder(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    names = "\n".join(lora.add_lora(pipeline, SPEC, seed=1))
    for part in ("unet.down_blocks", "conv1", "ff.net", "to_out", "text_encoder.", "q_proj"):
        assert part in names


def test_same_seed_same_start_and_same_bytes(models_dir: Path) -> None:
    files = []
    for seed in (1, 1, 2):
        pipeline = load_pipeline(resolve_base("tiny", models_dir))
        lora.add_lora(pipeline, SPEC, seed=seed)
        files.append(lora.lora_file(pipeline))
    assert files[0] == files[1] != files[2]


def test_the_file_does_not_hold_the_path_of_the_base(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "tiny", tmp_path / "elsewhere" / "tiny")
    files = []
    for folder in (models_dir, tmp_path / "elsewhere"):
        pipeline = load_pipeline(resolve_base("tiny", folder))
        lora.add_lora(pipeline, SPEC, seed=1)
        files.append(lora.lora_file(pipeline))
        assert str(folder).encode() not in files[-1]
    assert files[0] == files[1], "the same adapter has the same digest, wherever it was fitted"


def test_removed_lora_leaves_the_base(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    before = predict(pipeline)
    shake(lora.add_lora(pipeline, SPEC, seed=1))
    lora.remove_lora(pipeline)
    assert torch.equal(predict(pipeline), before)
    assert not lora.lora_parameters(pipeline)
    again = lora.add_lora(pipeline, SPEC, seed=1)
    assert again and torch.equal(predict(pipeline), before)
