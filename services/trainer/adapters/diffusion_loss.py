"""Prediction, training target and loss weight of a diffusion UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from services.common.errors import FailedPrecondition
from services.common.models.pipelines import encode_prompts, image_size

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline

_HEAVIEST = 20.0


def predict(
    pipeline: Pipeline, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Sequence[str]
) -> torch.Tensor:
    """The UNet's prediction (N, C, h, w); encodes each prompt once.

    Args:
        pipeline: The base, with or without LoRA.
        noisy: Noisy latents (N, C, h, w) on the pipeline's device.
        timesteps: N timesteps, on the same device.
        prompts: N texts.
    """
    distinct = sorted(set(prompts))
    rows = [distinct.index(prompt) for prompt in prompts]
    embeddings = encode_prompts(pipeline, distinct)
    extra: dict[str, Any] = {}
    if embeddings.pooled is not None:
        size = float(image_size(pipeline))
        time_ids = torch.tensor([[size, size, 0.0, 0.0, size, size]] * len(rows))
        extra["added_cond_kwargs"] = {
            "text_embeds": embeddings.pooled[rows],
            "time_ids": time_ids.to(noisy.device),
        }
    unet = pipeline.unet
    dtype = unet.conv_in.weight.dtype
    answer: torch.Tensor = unet(
        noisy.to(dtype), timesteps, embeddings.tokens[rows].to(dtype), **extra
    ).sample
    return answer


def target_and_weight(
    prediction_type: str,
    latents: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    min_snr_gamma: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The UNet's training target, and each image's weight in the loss (min-SNR).

    Without min-SNR, a UNet that predicts the image itself is weighted as one that predicts
    velocity, up to ``_HEAVIEST``: unweighted, its predictions at little noise would hardly count.
    """
    signal_to_noise = (alpha / (1 - alpha).clamp(min=1e-8)).clamp(min=1e-8)
    cap = signal_to_noise.clamp(max=min_snr_gamma) if min_snr_gamma else None
    if prediction_type == "epsilon":
        target, weight = noise, None if cap is None else cap / signal_to_noise
    elif prediction_type == "v_prediction":
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        weight = None if cap is None else cap / (signal_to_noise + 1)
    elif prediction_type == "sample":
        as_velocity = (signal_to_noise + 1).clamp(max=_HEAVIEST)
        target, weight = latents, as_velocity if cap is None else cap
    else:
        remedy = "choose a base that predicts epsilon, v_prediction or sample"
        raise FailedPrecondition("base", f"predicts {prediction_type!r}", remedy)
    return target, torch.ones_like(alpha) if weight is None else weight
