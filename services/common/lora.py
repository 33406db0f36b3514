"""LoRA on a Stable Diffusion pipeline: add it, read it out, write the standard file.

The file is diffusers' own ``pytorch_lora_weights.safetensors`` with rank, alpha and targets in
its metadata, so ``pipeline.load_lora_weights`` reads it anywhere.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.bases import text_encoders

if TYPE_CHECKING:
    import torch

    from services.common.bases import Pipeline

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_NAME = "default"

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut")
PROJECTIONS = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class LoraSpec:
    """Which layers get LoRA matrices, and how large (Hu et al. 2021).

    Targets are the ends of module names; those that a base does not have are passed over.
    """

    rank: int
    alpha: float
    unet_targets: tuple[str, ...] = ATTENTION
    text_targets: tuple[str, ...] = TEXT_ATTENTION

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for manifests."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> LoraSpec:
        """The spec that ``to_dict`` wrote."""
        return LoraSpec(
            rank=int(data["rank"]),
            alpha=float(data["alpha"]),
            unet_targets=tuple(data["unet_targets"]),
            text_targets=tuple(data["text_targets"]),
        )


def add_lora(pipeline: Pipeline, spec: LoraSpec, seed: int) -> dict[str, torch.nn.Parameter]:
    """Puts fresh trainable LoRA matrices (float32) on the UNet and the text encoders.

    B starts at zero, so the model is unchanged at first; A depends on ``seed`` alone.

    Returns:
        The trainable parameters by name, in a fixed order.
    """
    import torch
    from peft import LoraConfig

    for model, targets in _models(pipeline, spec):
        if not targets:
            continue
        model.add_adapter(
            LoraConfig(
                r=spec.rank,
                lora_alpha=spec.alpha,
                init_lora_weights="gaussian",
                target_modules=targets,
            ),
            adapter_name=ADAPTER_NAME,
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    parameters = lora_parameters(pipeline)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.data = parameter.data.float()
            if ".lora_A." in name:
                start = torch.randn(parameter.shape, generator=generator) / spec.rank
                parameter.copy_(start.to(parameter.device))
    return parameters


def lora_parameters(pipeline: Pipeline) -> dict[str, torch.nn.Parameter]:
    """The LoRA parameters of UNet (``unet.…``) and text encoders (``text_encoder.…``)."""
    found = {}
    for part, model in _named_models(pipeline):
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                found[f"{part}.{name}"] = parameter
    return found


def remove_lora(pipeline: Pipeline) -> None:
    """Takes the LoRA layers off again; the base is what it was."""
    pipeline.unload_lora_weights()


def lora_file(pipeline: Pipeline) -> bytes:
    """The trained LoRA as the bytes of ``pytorch_lora_weights.safetensors``."""
    from peft import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for part, model in _named_models(pipeline):
        if not getattr(model, "peft_config", None):
            continue
        state = get_peft_model_state_dict(model, adapter_name=ADAPTER_NAME)
        layers[f"{part}_lora_layers"] = {
            name: tensor.detach().cpu().contiguous() for name, tensor in state.items()
        }
        layers[f"{part}_lora_adapter_metadata"] = _json_ready(
            model.peft_config[ADAPTER_NAME].to_dict()
        )
    with tempfile.TemporaryDirectory() as folder:
        type(pipeline).save_lora_weights(folder, weight_name=WEIGHTS_FILE, **layers)
        return _canonical((Path(folder) / WEIGHTS_FILE).read_bytes())


def load_lora(pipeline: Pipeline, data: bytes, adapter_name: str) -> None:
    """Loads the bytes of a LoRA file as the adapter ``adapter_name``."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS_FILE).write_bytes(data)
        pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE, adapter_name=adapter_name)


def _named_models(pipeline: Pipeline) -> list[tuple[str, Any]]:
    encoders = text_encoders(pipeline)
    names = ("text_encoder", "text_encoder_2")
    return [("unet", pipeline.unet), *zip(names, encoders, strict=False)]


def _models(pipeline: Pipeline, spec: LoraSpec) -> list[tuple[Any, list[str]]]:
    """UNet and text encoders with the full names of their target modules."""
    return [
        (model, _matching(model, spec.unet_targets if part == "unet" else spec.text_targets))
        for part, model in _named_models(pipeline)
    ]


def _matching(model: Any, targets: Sequence[str]) -> list[str]:
    import torch

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        and any(name == target or name.endswith(f".{target}") for target in targets)
    ]


def _json_ready(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: sorted(value) if isinstance(value, set | frozenset) else value
        for key, value in config.items()
    }


def _canonical(safetensors_file: bytes) -> bytes:
    """The same file with its header in sorted order: the library writes metadata in any order."""
    (length,) = struct.unpack("<Q", safetensors_file[:8])
    header = json.loads(safetensors_file[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + safetensors_file[8 + length :]
