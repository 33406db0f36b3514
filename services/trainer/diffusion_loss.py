"""What a diffusion UNet is trained to predict, and how much each noise level counts."""

from __future__ import annotations

import torch

from services.common.errors import FailedPrecondition


def target_and_weight(
    prediction_type: str,
    latents: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    min_snr_gamma: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the UNet is to predict, and each image's weight in the loss (min-SNR)."""
    signal_to_noise = (alpha / (1 - alpha).clamp(min=1e-8)).clamp(min=1e-8)
    cap = signal_to_noise.clamp(max=min_snr_gamma) if min_snr_gamma else None
    if prediction_type == "epsilon":
        target, weight = noise, None if cap is None else cap / signal_to_noise
    elif prediction_type == "v_prediction":
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        weight = None if cap is None else cap / (signal_to_noise + 1)
    elif prediction_type == "sample":
        target, weight = latents, cap
    else:
        remedy = "choose a base that predicts epsilon, v_prediction or sample"
        raise FailedPrecondition("base", f"predicts {prediction_type!r}", remedy)
    return target, torch.ones_like(alpha) if weight is None else weight
