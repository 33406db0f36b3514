"""Train the 8x autoencoder of a small base (diffusers AutoencoderDC, 64 px).

    python -m pretraining.train_autoencoder --out build/ae
    python -m pretraining.train_autoencoder --out build/ae \
        --real ../shared/data/wbc-pbc-barcelona
    python -m pretraining.train_autoencoder --out build/ae-longer --start build/ae

Latents are the principal components of blocks of 8 x 8 pixels, and the decoder begins as their
transpose. Components and transpose are exact: AutoencoderDC (Chen et al., arXiv 2410.10733) moves
pixels into channels and back instead of striding and interpolating, and the residual blocks begin
at zero. Training then teaches the decoder's residual blocks what the components leave out. Why not
an AutoencoderKL: docs/lab-notebook.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch.nn.functional import pixel_unshuffle

from pretraining.augment_batches import augment, restain
from pretraining.corpus import Corpus, join, phantom_corpus, real_corpus
from pretraining.native_bfloat16 import native_bfloat16

LATENT_CHANNELS = 48
GRADIENT_WEIGHT = 1.0
RESTAINED_SHARE = 0.4
"""Share of images in a stain that no laboratory here has: an adapter can only learn colours that
the autoencoder can decode."""
RESTAIN_AMOUNT = 0.15
_BATCH = 16
_PEAK_RATE = 1e-3
_BLOCKS = 1500
"""Images whose blocks determine the components."""
_WHITENING = 0.6
"""Latents have the standard deviation of their component to the power of 1 minus this value.

With 1, fine detail would count in the UNet's loss as much as the colour of the image; with 0, only
the last sampling steps would generate it."""
_NOISE = 0.02
"""Standard deviation of noise added to latents in training: generated latents are not exact."""
_CONSTANT = 16.0
"""Value of the channels that keep the decoder's last norm independent of the image; pixels are at
most 1."""
_ENCODER_WIDTHS = (3, 12, 48, 192)
_DECODER_WIDTHS = (16, 32, 64, 128)
_PIXELS = 12
"""Channels of 2 x 2 pixels."""


def new_autoencoder(latent_channels: int = LATENT_CHANNELS) -> AutoencoderDC:
    """An untrained 8x autoencoder: (3, 64, 64) to (latent_channels, 8, 8)."""
    return AutoencoderDC(
        latent_channels=latent_channels,
        encoder_block_out_channels=_ENCODER_WIDTHS,
        decoder_block_out_channels=_DECODER_WIDTHS,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 2, 2, 2),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        decoder_conv_act_fn="silu",
    )


@torch.no_grad()
def set_principal_components(model: AutoencoderDC, x: torch.Tensor) -> None:
    """Sets the model to the images' principal components."""
    for block in model.modules():
        if type(block).__name__ == "ResBlock":  # diffusers does not export it
            block.norm.weight.zero_()
            block.norm.bias.zero_()
    blocks = x
    for _ in range(3):
        blocks = pixel_unshuffle(blocks, 2)
    blocks = blocks.permute(0, 2, 3, 1).reshape(-1, _ENCODER_WIDTHS[-1])
    mean, count = blocks.mean(0), model.config.latent_channels
    variances, vectors = torch.linalg.eigh(torch.cov((blocks - mean).double().T))
    basis = vectors.flip(1)[:, :count].float()
    std = variances.flip(0)[:count].clamp_min(1e-8).sqrt().float()
    scale = std**-_WHITENING
    scale /= (scale * std).square().mean().sqrt()
    encoder, decoder = model.encoder, model.decoder
    # Down: pixels become channels through the shortcuts.
    _only(encoder.conv_in.conv, torch.eye(3))
    for blocks_down in encoder.down_blocks[1:3]:
        _only(blocks_down[-1].conv, torch.zeros(1, 1))
    _only(encoder.conv_out, (basis * scale).T, -(mean @ basis) * scale)
    # Up: blocks of 8 x 8, of 4 x 4, of 2 x 2 pixels, the last in pairs of pixels and their
    # negatives, of which SiLU gives both back exactly (silu(x) - silu(-x) = x).
    _only(decoder.conv_in, torch.eye(count))
    _up(decoder.up_blocks[2][0], (basis / scale), mean)
    pairs = torch.kron(torch.tensor([[1.0], [-1.0]]), torch.eye(4 * _PIXELS))
    constants = torch.zeros(4 * _DECODER_WIDTHS[1])
    constants[len(pairs) :] = _CONSTANT
    _up(decoder.up_blocks[1][0], pairs, constants)
    num_constant = _DECODER_WIDTHS[1] - 2 * _PIXELS
    decoder.norm_out.weight.fill_(_CONSTANT * (num_constant / _DECODER_WIDTHS[1]) ** 0.5)
    decoder.norm_out.bias.zero_()
    _only(decoder.conv_out.conv, torch.cat([torch.eye(_PIXELS), -torch.eye(_PIXELS)], 1))


def _only(conv: torch.nn.Conv2d, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Sets the first channels of a convolution to a matrix."""
    conv.weight.zero_()
    conv.bias.zero_()
    conv.weight[: matrix.shape[0], : matrix.shape[1], 1, 1] = matrix
    if bias is not None:
        conv.bias[: len(bias)] = bias


def _up(block: torch.nn.Module, matrix: torch.Tensor, bias: torch.Tensor) -> None:
    """Sets an up-block, shortcut included, to a matrix."""
    conv = block.conv
    wanted = torch.zeros(conv.out_channels, conv.in_channels)
    wanted[: matrix.shape[0], : matrix.shape[1]] = matrix
    rows = torch.arange(conv.out_channels)
    wanted[rows, rows // block.repeats] -= 1
    _only(conv, wanted, bias)


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean L1 loss of pixels, plus horizontal and vertical differences."""
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
    latent_channels: int = LATENT_CHANNELS,
) -> None:
    """Train the decoder for ``minutes`` and write the diffusers folder ``out``.

    0 minutes keep the components and their transpose unchanged. With ``start`` the latents stay
    those of that autoencoder, so that a UNet trained on them still fits.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    weights = corpus.sampling_weights()
    if start:
        model = AutoencoderDC.from_pretrained(start)
    else:
        model = new_autoencoder(latent_channels)
        set_principal_components(model, _batch(corpus, weights, rng, _BLOCKS))
    model = model.to(memory_format=torch.channels_last).requires_grad_(False).train()
    blocks = [m for m in model.decoder.modules() if type(m).__name__ == "ResBlock"]
    parameters = [p.requires_grad_() for block in blocks for p in block.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_RATE, betas=(0.9, 0.99), weight_decay=0)
    t0, step, done = time.time(), 0, 0.0
    while minutes and (done := (time.time() - t0) / (60 * minutes)) < 1:
        lr = _PEAK_RATE * min(1, (step + 1) / 100) * max(0.01, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        x = _batch(corpus, weights, rng, _BATCH).to(memory_format=torch.channels_last)
        with native_bfloat16():
            latents = model.encode(x).latent
            y = model.decode(latents + _NOISE * torch.randn_like(latents)).sample
        loss = reconstruction_loss(y.float(), x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            mse = (y.float() - x).square().mean().item() / 4
            psnr = -10 * np.log10(mse)
            print(
                f"{step} {time.time() - t0:.0f}s loss {loss.item():.4f} psnr {psnr:.2f} dB",
                flush=True,
            )
    record = {"steps": step, "minutes": minutes, "seed": seed}
    record["start"] = json.loads((start / "training.json").read_text()) if start else None
    finish(model, corpus, out, record, rescale=start is None)


def _batch(
    corpus: Corpus, weights: np.ndarray, rng: np.random.Generator, count: int
) -> torch.Tensor:
    x = augment(corpus.images[rng.choice(len(weights), count, p=weights)], rng, color=0.06)
    some = rng.random(count) < RESTAINED_SHARE
    if some.any():
        x[some] = restain(x[some], rng, RESTAIN_AMOUNT)
    return x


@torch.no_grad()
def finish(model: AutoencoderDC, corpus: Corpus, out: Path, record: dict, rescale: bool) -> None:
    """Scale latents to unit variance, and write the model."""
    model.eval()
    count = min(1024, len(corpus.images))
    pick = np.random.default_rng(0).choice(len(corpus.images), count, p=corpus.sampling_weights())
    x = augment(corpus.images[pick], np.random.default_rng(0), color=0)
    latents = torch.cat([model.encode(b).latent for b in x.split(64)])
    if rescale:
        # Pipelines of Stable Diffusion read from block_out_channels how much smaller latents are.
        model.register_to_config(
            scaling_factor=float(1 / latents.std()), block_out_channels=list(_ENCODER_WIDTHS)
        )
    y = torch.cat([model.decode(b).sample for b in latents.split(64)]).clamp(-1, 1)
    record["psnr_db"] = round(float(-10 * torch.log10((y - x).square().mean() / 4)), 2)
    model.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record))


def corpus_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of a training script: the corpus, ``--out``, ``--seed``, ``--threads``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path, help="folder of Barcelona images")
    parser.add_argument("--phantoms-per-class", type=int, default=600)
    parser.add_argument(
        "--cache", type=Path, default=Path("build/corpus"), help="folder of rendered phantoms"
    )
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
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--start", type=Path, help="continue training this autoencoder's decoder")
    parser.add_argument("--latent-channels", type=int, default=LATENT_CHANNELS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(load_corpus(args), args.out, args.minutes, args.seed, args.start, args.latent_channels)
