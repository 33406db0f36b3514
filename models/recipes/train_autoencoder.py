"""Train the 8x autoencoder of a small base on cell images (diffusers AutoencoderKL, 64 px).

    python -m models.recipes.train_autoencoder --out build/ae-phantoms --minutes 20
    python -m models.recipes.train_autoencoder --out build/ae \
        --real ../shared/data/wbc-pbc-barcelona
    python -m models.recipes.train_autoencoder --out build/ae-sharp --start build/ae \
        --decoder-only --feature-weight 1 --real ../shared/data/wbc-pbc-barcelona

The loss is L1 on pixels and on image gradients, the distance of the features of a classifier
trained first on the same images (``models.recipes.cell_features``), and a light KL term: that of
latent diffusion (Rombach et al., arXiv 2112.10752) with a perceptual network of our own, without
its adversarial part.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from models.recipes.augment_batches import augment, restain
from models.recipes.cell_features import CellFeatures, train_cell_features
from models.recipes.corpus import Corpus, join, phantom_corpus, real_corpus
from models.recipes.native_bfloat16 import native_bfloat16

KL_WEIGHT = 1e-3
GRADIENT_WEIGHT = 1.0
RESTAINED_SHARE = 0.4
"""Share of the images shown in a stain that no laboratory here has: an adapter can only learn
colours that the autoencoder can draw."""
RESTAIN_AMOUNT = 0.15


def new_autoencoder() -> AutoencoderKL:
    """An untrained 8x autoencoder: (3, 64, 64) pixels to (16, 8, 8) latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        force_upcast=False,
    )


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean L1 of the pixels plus that of the horizontal and vertical differences."""
    loss = (y - x).abs().mean()
    for dim in (2, 3):
        loss = loss + GRADIENT_WEIGHT * (y.diff(dim=dim) - x.diff(dim=dim)).abs().mean()
    return loss


def train(
    corpus: Corpus,
    out: Path,
    minutes: float,
    seed: int,
    start: Path | None,
    features: CellFeatures,
    feature_weight: float = 0.5,
    decoder_only: bool = False,
) -> None:
    """Train for ``minutes`` of wall time and write ``out`` (diffusers folder, safetensors).

    With ``decoder_only`` the latents stay those of ``start``, so that a UNet trained on them
    still fits.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = AutoencoderKL.from_pretrained(start) if start else new_autoencoder()
    model = model.to(memory_format=torch.channels_last).train()
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    peak = 1e-3 if start is None else 4e-4
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0)
    weights = corpus.sampling_weights()
    t0, step, done = time.time(), 0, 0.0
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        lr = peak * min(1, (step + 1) / 100) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pick = rng.choice(len(weights), 32, p=weights)
        x = augment(corpus.images[pick], rng, color=0.06)
        some = rng.random(len(x)) < RESTAINED_SHARE
        x[some] = restain(x[some], rng, RESTAIN_AMOUNT)
        x = x.to(memory_format=torch.channels_last)
        with native_bfloat16():
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample()).sample
            distance = features.distance(x, y)
        recon = reconstruction_loss(y.float(), x)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = recon + feature_weight * distance + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            mse = (y.float() - x).square().mean().item() / 4
            print(
                f"{step} {time.time() - t0:.0f}s loss {loss.item():.4f} "
                f"features {distance.item():.4f} kl {kl.item():.2f} "
                f"psnr {-10 * np.log10(mse):.2f} dB lr {lr:.1e}",
                flush=True,
            )
    record = {"steps": step, "minutes": minutes, "seed": seed}
    record["start"] = json.loads((start / "training.json").read_text()) if start else None
    record["feature_weight"] = feature_weight
    record["decoder_only"] = decoder_only
    finish(model, corpus, out, record, rescale=not decoder_only)


@torch.no_grad()
@native_bfloat16()
def finish(model: AutoencoderKL, corpus: Corpus, out: Path, record: dict, rescale: bool) -> None:
    """Set the scaling factor so that latents have unit variance, and write the model."""
    model.eval()
    count = min(1024, len(corpus.images))
    pick = np.random.default_rng(0).choice(len(corpus.images), count, p=corpus.sampling_weights())
    x = augment(corpus.images[pick], np.random.default_rng(0), color=0)
    latents = torch.cat([model.encode(b).latent_dist.mode().float() for b in x.split(64)])
    if rescale:
        model.register_to_config(scaling_factor=float(1 / latents.std()))
    y = torch.cat([model.decode(b).sample.float() for b in latents.split(64)]).clamp(-1, 1)
    record["psnr_db"] = float(-10 * torch.log10((y - x).square().mean() / 4))
    record["latent_channel_std"] = [round(float(s), 3) for s in latents.std(dim=(0, 2, 3))]
    model.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record))


def corpus_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of a recipe: what ``load_corpus`` reads, ``--out``, ``--seed``, ``--threads``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path, help="folder of Barcelona images")
    parser.add_argument("--phantoms-per-class", type=int, default=600)
    parser.add_argument("--cache", type=Path, default=Path("build/corpus"), help="phantoms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def load_corpus(args: argparse.Namespace) -> Corpus:
    """Phantoms, real images, or both, as the arguments ask."""
    parts = []
    if args.phantoms_per_class:
        parts.append(phantom_corpus(args.phantoms_per_class, args.cache))
    if args.real:
        parts.append(real_corpus(args.real))
    return parts[0] if len(parts) == 1 else join(*parts)


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--decoder-only", action="store_true", help="keep the latents of --start")
    parser.add_argument("--feature-weight", type=float, default=0.5)
    parser.add_argument("--feature-minutes", type=float, default=5, help="before the autoencoder")
    parser.add_argument("--start", type=Path, help="go on from this autoencoder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpus = load_corpus(args)
    features = train_cell_features(corpus, args.feature_minutes, args.seed)
    train(
        corpus,
        args.out,
        args.minutes,
        args.seed,
        args.start,
        features,
        args.feature_weight,
        args.decoder_only,
    )
