"""Adds LoRA to a Stable Diffusion pipeline; reads and writes the file.

The file is diffusers' own ``pytorch_lora_weights.safetensors`` with rank, alpha and targets in
its metadata, so ``pipeline.load_lora_weights`` reads it anywhere.
"""

from __future__ import annotations

import json
import math
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.models.construction_lock import builds_models
from services.common.models.pipelines import PromptEmbeddings, encode_prompts, text_encoders

if TYPE_CHECKING:
    import torch

    from services.common.models.pipelines import Pipeline

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_NAME = "default"

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "conv_in", "conv_out")
"""With the first and the last one, which form fine detail (docs/lab-notebook.md)."""
PROJECTIONS = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class LoraSpec:
    """Layers that get LoRA matrices, and their rank (Hu et al. 2021).

    Targets are the ends of module names; targets that a base does not have are skipped.
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
    """Adds trainable LoRA matrices (float32) to the UNet and the text encoders.

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
    """LoRA parameters of UNet (``unet.…``) and text encoders (``text_encoder.…``)."""
    found = {}
    for part, model in _named_models(pipeline):
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                found[f"{part}.{name}"] = parameter
    return found


def load_lora(pipeline: Pipeline, data: bytes) -> None:
    """Loads a LoRA file into UNet and text encoders; ``remove_lora`` undoes it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS_FILE).write_bytes(data)
        pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE, adapter_name=ADAPTER_NAME)


def remove_lora(pipeline: Pipeline) -> None:
    """Removes the LoRA layers, which restores the base."""
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


def read_lora(pipeline: Pipeline, data: bytes) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Reads the UNet part of a LoRA file like diffusers and peft.

    Returns:
        By name of the UNet's layer: ``down`` (r, in) or (r, in, k, k), and ``up`` (out, r) with
        alpha / r multiplied in.

    Raises:
        ValueError: If the file holds something other than plain LoRA.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft
    from diffusers.utils.peft_utils import get_peft_kwargs
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    state, alphas, metadata = _state_dict(pipeline, data)
    state, alphas, metadata = (_below("unet", part) for part in (state, alphas, metadata))
    if not state:
        return {}
    if not any("lora_A" in key for key in state):
        state = convert_unet_state_dict_to_peft(state)
    ranks = {f"^{key}": tensor.shape[1] for key, tensor in state.items() if "lora_B" in key}
    settings = metadata or get_peft_kwargs(ranks, alphas, state)
    config = LoraConfig(**settings)
    if config.use_dora or config.lora_bias:
        raise ValueError("DoRA and LoRA with bias are not supported")
    pairs = {}
    for key, down in state.items():
        name, is_down, _ = key.partition(".lora_A.")
        if not is_down:
            continue
        up = state[f"{name}.lora_B.weight"].flatten(1).float()
        rank = down.shape[0]
        alpha_key = get_pattern_key(config.alpha_pattern.keys(), name)
        alpha = config.alpha_pattern.get(alpha_key, config.lora_alpha)
        scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        pairs[name] = down.float(), up * scale
    return pairs


@builds_models
def encode_with_lora(
    pipeline: Pipeline, data: bytes | None, prompts: Sequence[str]
) -> list[PromptEmbeddings]:
    """Embeddings of prompts under a text LoRA.

    Each prompt has ``tokens`` (T, C) and ``pooled`` (P,). Prompts are encoded one at a time, so
    that the bits of one do not depend on the others.

    Args:
        pipeline: Pipeline whose text encoders carry the LoRA meanwhile.
        data: A LoRA file; None is the text encoders alone.
        prompts: Texts; an empty one is the unconditional prompt of guidance.
    """
    import torch

    if data is not None:
        state, alphas, metadata = _state_dict(pipeline, data)
        for part, encoder in _named_models(pipeline)[1:]:
            if _below(part, state):
                pipeline.load_lora_into_text_encoder(
                    state,
                    alphas,
                    encoder,
                    prefix=part,
                    adapter_name=ADAPTER_NAME,
                    metadata=metadata or None,
                )
    try:
        with torch.inference_mode():
            many = [encode_prompts(pipeline, [prompt]) for prompt in prompts]
    finally:
        pipeline.delete_adapters(ADAPTER_NAME)
        for encoder in text_encoders(pipeline):
            getattr(encoder, "peft_config", {}).pop(ADAPTER_NAME, None)
    return [
        PromptEmbeddings(one.tokens[0], one.pooled[0] if one.pooled is not None else None)
        for one in many
    ]


def _state_dict(pipeline: Pipeline, data: bytes) -> tuple[dict[str, Any], ...]:
    """Weights, alphas and metadata of a LoRA file in diffusers' names."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS_FILE).write_bytes(data)
        parts = pipeline.lora_state_dict(
            folder,
            weight_name=WEIGHTS_FILE,
            return_lora_metadata=True,
            unet_config=pipeline.unet.config,
        )
    return tuple(part or {} for part in parts)


def _below(prefix: str, part: dict[str, Any]) -> dict[str, Any]:
    start = f"{prefix}."
    return {key.removeprefix(start): v for key, v in part.items() if key.startswith(start)}


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
    """The config as JSON, without the path of the base."""
    return {
        key: sorted(value) if isinstance(value, set | frozenset) else value
        for key, value in config.items()
    } | {"base_model_name_or_path": None}


def _canonical(safetensors_file: bytes) -> bytes:
    """File with a sorted header; the library leaves metadata in any order."""
    (length,) = struct.unpack("<Q", safetensors_file[:8])
    header = json.loads(safetensors_file[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + safetensors_file[8 + length :]
