"""Image size, prompt embeddings and decoded images of a loaded diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embedded prompts.

    ``tokens`` is (N, T, C); ``pooled`` is (N, P) for SDXL, else None.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None


def decodes_in_float32(pipeline: Pipeline) -> bool:
    """Whether the decoder overflows in 16 bits, as SDXL's first one states."""
    xl = hasattr(pipeline, "text_encoder_2")
    return bool(xl and getattr(pipeline.vae.config, "force_upcast", False))


def text_encoders(pipeline: Pipeline) -> list[torch.nn.Module]:
    """The pipeline's text encoders: one, or two for SDXL."""
    second = getattr(pipeline, "text_encoder_2", None)
    return [pipeline.text_encoder, *([second] if second is not None else [])]


def image_size(pipeline: Pipeline) -> int:
    """Image size in pixels that a loaded pipeline is made for."""
    return int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)


def encode_prompts(pipeline: Pipeline, prompts: Sequence[str]) -> PromptEmbeddings:
    """Embeddings of N prompts.

    An empty prompt is the unconditional one of guidance.
    """
    tokens, _, *pooled = pipeline.encode_prompt(
        list(prompts),
        device=pipeline.unet.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    if not pooled:
        return PromptEmbeddings(tokens)
    pooled_tokens = pooled[0]
    if getattr(pipeline.config, "force_zeros_for_empty_prompt", False):
        for row, prompt in enumerate(prompts):
            if not prompt:
                tokens[row], pooled_tokens[row] = 0, 0
    return PromptEmbeddings(tokens, pooled_tokens)


def decode_latents(pipeline: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    """Decodes scaled latents (N, C, H/8, W/8) to pixels.

    Returns:
        Pixels (N, 3, H, W), about -1 to 1.
    """
    import torch

    config = pipeline.vae.config
    raw = latents / config.scaling_factor
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean and std:
        shape = (1, -1, 1, 1)
        raw = raw * torch.tensor(std).view(shape).to(raw) + torch.tensor(mean).view(shape).to(raw)
    return pipeline.vae.decode(raw + (getattr(config, "shift_factor", None) or 0)).sample
