"""Distillation LoRAs: entries of a base's manifest, and merged UNet weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.common.errors import FailedPrecondition
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.distilled_loras import DistillationLora
from tests.support import fakes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base called "tiny" with a distillation LoRA beside it."""
    folder = fakes.write_tiny_base(tmp_path, "tiny")
    fakes.write_distillation_lora(folder)
    return folder


def say(folder: Path, **entry: Any) -> None:
    """Change the entry in the base's manifest; None removes a key."""
    manifest = json.loads((folder / "manifest.json").read_text())
    merged = manifest["accelerator"] | entry
    manifest["accelerator"] = {key: value for key, value in merged.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_distillation_lora_has_a_revision_of_its_own(folder: Path) -> None:
    base = resolve_base("tiny", folder.parent)
    file = folder.parent / "tiny-distilled" / "pytorch_lora_weights.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert base.distillation_lora == DistillationLora(str(file.parent), file.name, digest, 2)
    fakes.write_distillation_lora(folder, seed=10)
    other = resolve_base("tiny", folder.parent)
    assert other.revision == base.revision
    assert other.distillation_lora is not None and other.distillation_lora.revision != digest


def test_distillation_lora_of_a_hub_is_pinned(folder: Path) -> None:
    say(folder, location="owner/lora", weight_name="4steps.safetensors", num_steps=4)
    with pytest.raises(FailedPrecondition, match=r"accelerator\.revision"):
        resolve_base("tiny", folder.parent)
    say(folder, revision="abc")
    lora = resolve_base("tiny", folder.parent).distillation_lora
    assert lora == DistillationLora("owner/lora", "4steps.safetensors", "abc", 4)


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"location": None}, "location"),
        ({"num_steps": None}, "num_steps"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": "4"}, "num_steps"),
        ({"num_steps": True}, "num_steps"),
        ({"weight_name": "missing.safetensors"}, "weight_name"),
    ],
)
def test_incomplete_entry_is_refused_by_its_key(
    folder: Path, entry: dict[str, Any], key: str
) -> None:
    say(folder, **entry)
    with pytest.raises(FailedPrecondition, match=rf"accelerator\.{key}"):
        resolve_base("tiny", folder.parent)


def test_missing_distillation_lora_is_refused(folder: Path) -> None:
    say(folder, location="../elsewhere")
    with pytest.raises(FailedPrecondition, match=r"\.\./elsewhere, where there is none"):
        resolve_base("tiny", folder.parent)


def test_merged_weights_are_those_of_base_and_lora(folder: Path) -> None:
    base = resolve_base("tiny", folder.parent)
    merged = load_pipeline(base, distillation_lora=base.distillation_lora)
    with_lora, plain = load_pipeline(base), load_pipeline(base)
    file = folder.parent / "tiny-distilled" / "pytorch_lora_weights.safetensors"
    fakes.load_lora(with_lora, file.read_bytes())
    assert {*dict(merged.unet.named_parameters())} == {*dict(plain.unet.named_parameters())}
    assert not any(parameter.requires_grad for parameter in merged.unet.parameters())
    x, tokens = torch.randn(2, 16, 4, 4), torch.randn(2, 40, 16)
    with torch.inference_mode():
        one, other, without = (
            pipeline.unet(x, 500, tokens).sample for pipeline in (merged, with_lora, plain)
        )
        prompts = [
            pipeline.encode_prompt("a cell", "cpu", 1, False)[0] for pipeline in (merged, plain)
        ]
    assert (one - other).abs().max() < 1e-4 < (one - without).abs().max()
    assert torch.equal(*prompts)  # the file's text encoder part is left out


def test_distillation_lora_that_would_change_nothing_is_refused(folder: Path) -> None:
    file = folder.parent / "tiny-distilled" / "pytorch_lora_weights.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if not k.startswith("unet.")}, file)
    base = resolve_base("tiny", folder.parent)
    with pytest.raises(FailedPrecondition, match="distillation LoRA of tiny"):
        load_pipeline(base, distillation_lora=base.distillation_lora)


def test_damaged_distillation_lora_tells_no_path(folder: Path) -> None:
    file = folder.parent / "tiny-distilled" / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    base = resolve_base("tiny", folder.parent)
    with pytest.raises(FailedPrecondition, match="distillation LoRA of tiny") as caught:
        load_pipeline(base, distillation_lora=base.distillation_lora)
    assert str(folder.parent) not in caught.value.message
