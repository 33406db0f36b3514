"""Builds, adapts and writes the models of small diffusion bases."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from pretraining.latent_batches import encode
from pretraining.tokenizer import MAX_TOKENS

PREDICTION = "sample"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": PREDICTION,
}


def new_unet(latent_channels: int) -> UNet2DConditionModel:
    """An untrained UNet over (latent_channels, 8, 8) latents and 128-wide text embeddings.

    8 M parameters.
    """
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 128),
        layers_per_block=2,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads, despite the name
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        norm_num_groups=16,
    )


def new_text_encoder(vocab_size: int, bos: int, eos: int) -> CLIPTextModel:
    """An untrained two-layer CLIP text model, 128 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


@torch.no_grad()
def carry_over(
    pipeline: StableDiffusionPipeline, vae: torch.nn.Module, images: np.ndarray
) -> UNet2DConditionModel:
    """Adapts the UNet of a pipeline to another autoencoder.

    First and last layers are multiplied by the matrices that map latents of one autoencoder
    closest to those of the other, pixel by pixel. The output of a UNet that predicts velocity is
    negated, as velocity is the image's negative where there is most noise.

    Args:
        pipeline: Pipeline of the UNet.
        vae: Autoencoder of the new latents.
        images: uint8 (N, 64, 64, 3), on which the latents are compared.
    """
    unet, channels = pipeline.unet, vae.config.latent_channels
    sign = -1.0 if pipeline.scheduler.config.prediction_type == "v_prediction" else 1.0
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    theirs, ours = (
        torch.cat([encode(each, x) for x in pixels.split(50)]).movedim(1, -1).flatten(0, 2)
        for each in (pipeline.vae.float(), vae)
    )
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-3):
        to_theirs, to_ours = _linear(ours, theirs), _linear(theirs, ours)
        of_in, of_out = weights["conv_in.weight"], weights["conv_out.weight"]
        weights["conv_in.weight"] = torch.einsum("ojhw,kj->okhw", of_in, to_theirs)
        weights["conv_out.weight"] = torch.einsum("jihw,jk->kihw", of_out, to_ours)
        weights["conv_out.bias"] = weights["conv_out.bias"] @ to_ours
    weights["conv_out.weight"] *= sign
    weights["conv_out.bias"] *= sign
    carried = new_unet(channels)
    carried.load_state_dict(weights)
    return carried


def _linear(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Least-squares matrix (C, D) from x (N, C) to y (N, D)."""
    with_constant = torch.cat([x, torch.ones(len(x), 1)], 1)
    return torch.linalg.lstsq(with_constant, y).solution[:-1]


def write_pipeline(out: Path, vae, unet, text_encoder, tokenizer) -> None:
    """Write a StableDiffusionPipeline folder in half precision (safetensors)."""
    scheduler = DPMSolverMultistepScheduler(**NOISE_SCHEDULE, lambda_min_clipped=-5.1)
    StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(text_encoder).half(),
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet).half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)


class PlainUNet(torch.nn.Module):
    """A UNet that returns a plain tensor."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Predicts (B, C, 8, 8) from latents, timesteps and text."""
        return self.unet(noisy, t, context, return_dict=False)[0]


def cuda_graphed(model: torch.nn.Module, batch: int, channels: int) -> torch.nn.Module:
    """Captures a model as CUDA graphs, as launching its kernels dominates."""
    sample = (
        torch.randn(batch, channels, 8, 8, device="cuda"),
        torch.zeros(batch, dtype=torch.int64, device="cuda"),
        torch.randn(batch, MAX_TOKENS, 128, device="cuda", requires_grad=True),
    )
    # Weight casts that autocast cached would belong to no graph.
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        return torch.cuda.make_graphed_callables(model, sample)
