"""Extras of a tiny base: second decoder, LoRAs, solver."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, StableDiffusionXLPipeline

from services.common.models.bespoke_solvers import BESPOKE_SOLVER_FILE, BespokeSolver
from services.common.models.diffusion_bases import TINY_DECODER, folder_revision


def write_tiny_decoder(folder: Path, seed: int = 0) -> Path:
    """Give a base folder a random second decoder; return the decoder's folder."""
    torch.manual_seed(seed)
    model = AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_decoder_blocks=(1, 1, 1, 0),
    )
    with torch.no_grad():
        list(model.decoder.parameters())[-2].mul_(8)  # else all is grey
    model.save_pretrained(folder / TINY_DECODER, safe_serialization=True)
    return folder / TINY_DECODER


def random_lora(folder: Path, seed: int, rank: int = 4, scale: float = 0.5) -> dict[str, bytes]:
    """A random LoRA on UNet attention and text encoder, in diffusers' format.

    Args:
        folder: A base written by :func:`write_tiny_base`.
        seed: Other seeds give other adapters.
        rank: LoRA rank.
        scale: Standard deviation of the B matrices (0 is an adapter that does nothing).

    Returns:
        ``{"pytorch_lora_weights.safetensors": bytes}``
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    generator = torch.Generator().manual_seed(seed)
    states = []
    for model, targets in (
        (pipeline.unet, ["to_q", "to_k", "to_v", "to_out.0"]),
        (pipeline.text_encoder, ["q_proj", "k_proj", "v_proj", "out_proj"]),
    ):
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        state = get_peft_model_state_dict(model)
        for value in state.values():
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
        states.append(convert_state_dict_to_diffusers(state))
    with tempfile.TemporaryDirectory() as out:
        StableDiffusionPipeline.save_lora_weights(
            out, unet_lora_layers=states[0], text_encoder_lora_layers=states[1]
        )
        file = Path(out) / "pytorch_lora_weights.safetensors"
        return {file.name: file.read_bytes()}


def write_distillation_lora(folder: Path, num_steps: int = 2, seed: int = 9) -> Path:
    """Adds a random distillation LoRA to a base; returns its file."""
    beside = folder.parent / f"{folder.name}-distilled"
    beside.mkdir(exist_ok=True)
    [(name, data)] = random_lora(folder, seed, scale=0.3).items()
    (beside / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"location": f"../{beside.name}", "num_steps": num_steps}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"accelerator": entry}))
    return beside / name


def bespoke_solver(num_steps: int = 3, num_guided: int = 2, seed: int = 0) -> BespokeSolver:
    """Random coefficients that lead a random model somewhere."""
    rng = np.random.default_rng(seed)

    def weights(num: int) -> tuple[float, ...]:
        return tuple(rng.uniform(-1, 1, num).round(4).tolist())

    return BespokeSolver(
        revision="",
        guidance_scale=2.0,
        timesteps=tuple(np.linspace(999, 111.5, num_steps).round(1).tolist()),
        starts=weights(num_steps),
        outputs=tuple(weights(k + 1) for k in range(num_steps)),
        guidances=tuple(weights(min(k + 1, num_guided)) for k in range(num_steps)),
    )


def write_bespoke_solver(folder: Path, solver: BespokeSolver) -> Path:
    """Put ``solver`` into the base in ``folder``; returns its file."""
    content = asdict(solver) | {"base_revision": folder_revision(folder)}
    path = folder / BESPOKE_SOLVER_FILE
    path.write_text(json.dumps(content))
    return path


def load_lora(
    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
    data: bytes,
    adapter_name: str | None = None,
    unet_only: bool = False,
) -> None:
    """Load a LoRA file into a pipeline by diffusers and peft alone."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pytorch_lora_weights.safetensors"
        file.write_bytes(data)
        if unet_only:
            pipeline.unet.load_lora_adapter(
                folder, weight_name=file.name, prefix="unet", adapter_name=adapter_name
            )
        else:
            pipeline.load_lora_weights(folder, weight_name=file.name, adapter_name=adapter_name)
