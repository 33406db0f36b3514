"""Train a small autoencoder (diffusers AutoencoderTiny) on the latents of a base.

    python -m models.recipes.train_tiny_decoder --name cyto-small \
        --real ../shared/data/wbc-pbc-barcelona

It learns to draw what the base's own decoder draws, from encoded images and from latents that
the base has sampled, at a third of the cost; the idea is TAESD's (O. Bohan,
https://github.com/madebyollin/taesd). It is written to ``models/<name>/vae_tiny`` and works on
the latents as the UNet has them (scaled).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline

from models.recipes.augment_batches import augment, restain
from models.recipes.cell_features import CellFeatures, train_cell_features
from models.recipes.export import forget_paths, record_tiny_decoder
from models.recipes.native_bfloat16 import native_bfloat16
from models.recipes.train_autoencoder import (
    RESTAIN_AMOUNT,
    RESTAINED_SHARE,
    load_corpus,
    reconstruction_loss,
)
from services.common.bases import TINY_DECODER, decode_latents, load_pipeline, resolve_base
from services.generator.solver import build_scheduler

BATCH = 32
MODELS = Path("models")


@dataclass
class Examples:
    """What the decoder learns from.

    pixels: uint8 (N, 64, 64, 3) as the base's decoder draws them; latents: float32
    (N, C, 8, 8), scaled; encoded: the first so many latents are those of images.
    """

    pixels: torch.Tensor
    latents: torch.Tensor
    encoded: int


def new_tiny() -> AutoencoderTiny:
    """Untrained; (N, 16, 8, 8) scaled latents to (N, 3, 64, 64) pixels."""
    return AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        decoder_block_out_channels=(48,) * 4,
        num_decoder_blocks=(3, 3, 1, 0),  # little at 32 and 64 px, where a decoder's time goes
    )


@torch.inference_mode()
def encoded_latents(
    pipeline: StableDiffusionPipeline, images: np.ndarray, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Scaled latents of every image once, turned, shifted and in part restained; a batch each."""
    vae: AutoencoderKL = pipeline.vae
    for start in range(0, len(images), BATCH):
        x = augment(images[start : start + BATCH], rng, color=0.06)
        some = rng.random(len(x)) < RESTAINED_SHARE
        x[some] = restain(x[some], rng, RESTAIN_AMOUNT)
        yield vae.encode(x).latent_dist.mode() * vae.config.scaling_factor


@torch.inference_mode()
def sampled_latents(
    pipeline: StableDiffusionPipeline, prompts: list[str], num_images: int
) -> Iterator[torch.Tensor]:
    """Latents that the base samples unguided in seven steps."""
    pipeline.scheduler = build_scheduler("unipc", dict(pipeline.scheduler.config))
    for start in range(0, num_images, BATCH):
        texts = [prompts[i % len(prompts)] for i in range(start, start + BATCH)]
        generator = torch.Generator().manual_seed(start)
        yield pipeline(
            texts,
            num_inference_steps=7,
            guidance_scale=1.0,
            generator=generator,
            output_type="latent",
        ).images


@torch.inference_mode()
def make_examples(
    pipeline: StableDiffusionPipeline, images: np.ndarray, prompts: list[str], num_sampled: int
) -> Examples:
    """Encodes ``images``, samples ``num_sampled`` more latents, and decodes them all."""
    batches = list(encoded_latents(pipeline, images, np.random.default_rng(0)))
    batches += sampled_latents(pipeline, prompts, num_sampled)
    pixels = []
    for latents in batches:
        drawn = (decode_latents(pipeline, latents) / 2 + 0.5).clamp(0, 1)
        pixels.append((drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    return Examples(torch.cat(pixels), torch.cat(batches).clone(), len(images))


def train(
    examples: Examples, features: CellFeatures, minutes: float, seed: int, feature_weight: float
) -> tuple[AutoencoderTiny, dict[str, object]]:
    """Train for ``minutes`` of wall time; gives the model and the record of its training.

    The decoder's loss is that of the autoencoder against what the base's decoder draws; the
    encoder, which nothing here uses, learns to give the same latents (L2).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new_tiny().to(memory_format=torch.channels_last).train()
    peak = 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0)
    t0, step, done = time.time(), 0, 0.0
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                peak * min(1, (step + 1) / 100) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
            )
        pick = torch.from_numpy(rng.choice(len(examples.pixels), BATCH, replace=False))
        x = (examples.pixels[pick].permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(
            memory_format=torch.channels_last
        )
        z = examples.latents[pick]
        with native_bfloat16():
            y = model.decode(z).sample
            distance = features.distance(x, y)
            guess = model.encode(x[: BATCH // 4]).latents
        recon = reconstruction_loss(y.float(), x)
        encoder_loss = (guess.float() - z[: BATCH // 4]).square().mean()
        loss = recon + feature_weight * distance + encoder_loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(
                f"{step} {time.time() - t0:.0f}s decoder {recon.item():.4f} "
                f"features {distance.item():.4f} encoder {encoder_loss.item():.3f} "
                f"psnr {_psnr(x, y.float()):.2f} dB",
                flush=True,
            )
    model.eval()
    with torch.inference_mode():
        y = model.decode(examples.latents[-256:]).sample
    x = examples.pixels[-256:].permute(0, 3, 1, 2).float() / 127.5 - 1
    return model, {
        "steps": step,
        "minutes": minutes,
        "seed": seed,
        "feature_weight": feature_weight,
        "examples": {"encoded": examples.encoded, "all": len(examples.pixels)},
        "psnr_db_to_the_full_decoder": round(_psnr(x, y), 2),
    }


def _psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(-10 * torch.log10((y.clamp(-1, 1) - x).square().mean() / 4))


def main() -> None:
    """Train the decoder of one base of ours and put it into the base's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the base, below models/")
    parser.add_argument("--real", type=Path, help="the Barcelona images, if the base has seen them")
    parser.add_argument("--phantoms-per-class", type=int, default=400)
    parser.add_argument("--sampled", type=int, default=3000, help="latents sampled by the base")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--feature-minutes", type=float, default=3)
    parser.add_argument("--feature-weight", type=float, default=1.0)
    parser.add_argument("--cache", type=Path, default=Path("build/corpus"), help="phantoms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpus = load_corpus(args)
    pipeline = load_pipeline(resolve_base(args.name, MODELS))
    pipeline.set_progress_bar_config(disable=True)
    prompts = sorted(set(corpus.prompts()))
    examples = make_examples(pipeline, corpus.images, prompts, args.sampled)
    print(f"{len(examples.pixels)} examples", flush=True)
    features = train_cell_features(corpus, args.feature_minutes, args.seed)
    model, record = train(examples, features, args.minutes, args.seed, args.feature_weight)
    folder = MODELS / args.name
    model.half().save_pretrained(folder / TINY_DECODER)
    forget_paths(folder / TINY_DECODER)
    record_tiny_decoder(folder, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
