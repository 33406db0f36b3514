"""Train the UNet and text encoder of a small base (diffusers StableDiffusionPipeline, 64 px).

    python -m models.recipes.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms
    python -m models.recipes.train_diffusion --autoencoder build/ae --out build/cyto-small \
        --real ../shared/data/wbc-pbc-barcelona

    OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node 2 \
        -m models.recipes.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms

The UNet predicts the image, as a latent has half as many channels as the UNet, and noise of so many
channels does not pass it (Li and He, arXiv 2511.13720); the loss is that of v-prediction (Salimans
and Ho, arXiv 2202.00512), at low noise capped. A cosine schedule, whose last step is nearly pure
noise so that the stain's overall colour is learned too; 10 % of the prompts dropped for
classifier-free guidance.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import (
    AutoencoderDC,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from models.recipes.corpus import Corpus
from models.recipes.native_bfloat16 import native_bfloat16
from models.recipes.tokenizer import MAX_TOKENS, build_tokenizer
from models.recipes.train_autoencoder import corpus_parser, load_corpus
from services.trainer.diffusion_loss import target_and_weight

BATCH = 64
DROP_PROMPT = 0.1
PREDICTION = "sample"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": PREDICTION,
}
_WAYS = (0, 3, 5, 6, 1, 2, 4, 7)
_CARRIED = 400
"""Images whose latents say how a UNet is carried over to another autoencoder."""


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
        attention_head_dim=4,  # the number of heads, whatever its name says
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
def encode(vae: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Scaled latents of images (N, 3, 64, 64) in -1 to 1."""
    found = vae.encode(pixels)
    latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
    return latents.float() * vae.config.scaling_factor


def encode_corpus(vae: torch.nn.Module, corpus: Corpus, ways: Sequence[int]) -> torch.Tensor:
    """Scaled latents of every image in these of its eight orientations.

    Returns float16 (N, len(ways), C, 8, 8).
    """
    images = torch.from_numpy(corpus.images).permute(0, 3, 1, 2)
    channels = vae.config.latent_channels
    latents = torch.empty(len(images), len(ways), channels, 8, 8, dtype=torch.float16)
    for place, way in enumerate(ways):
        for start in range(0, len(images), 128):
            x = images[start : start + 128].float() / 127.5 - 1
            x = torch.rot90(x, way % 4, (2, 3))
            x = x.flip(3) if way >= 4 else x
            with native_bfloat16():
                latents[start : start + 128, place] = encode(vae, x)
    return latents


@torch.no_grad()
def carry_over(
    pipeline: StableDiffusionPipeline, vae: torch.nn.Module, images: np.ndarray
) -> UNet2DConditionModel:
    """The UNet of a pipeline with another autoencoder, to go on from.

    Its first and last layers are multiplied by the matrices that bring latents of one closest to
    those of the other, pixel by pixel. Where it predicts velocity, which is the image's negative
    where there is most noise, its output is negated.

    Args:
        pipeline: Whose UNet.
        vae: Whose latents it is to take.
        images: uint8 (N, 64, 64, 3), some to compare the latents of.
    """
    unet, channels = pipeline.unet, vae.config.latent_channels
    sign = -1.0 if pipeline.scheduler.config.prediction_type == "v_prediction" else 1.0
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    if unet.config.in_channels != channels:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        theirs, ours = (
            torch.cat([encode(each, x) for x in pixels.split(50)]).movedim(1, -1).flatten(0, 2)
            for each in (pipeline.vae.float(), vae)
        )
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
    """The matrix (C, D) with which x (N, C) comes closest to y (N, D), but for a constant."""
    with_constant = torch.cat([x, torch.ones(len(x), 1)], 1)
    return torch.linalg.lstsq(with_constant, y).solution[:-1]


def write_pipeline(out: Path, vae, unet, text_encoder, tokenizer) -> None:
    """Write everything as a StableDiffusionPipeline folder in half precision (safetensors)."""
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


def train(
    corpus: Corpus,
    vae: torch.nn.Module,
    out: Path,
    minutes: float,
    seed: int,
    start: Path | None,
    compiled: bool,
) -> None:
    """Train for ``minutes`` of wall time, writing the averaged weights to ``out`` as it goes.

    Where torch.distributed runs, processes share a batch.
    """
    rank, num_processes = 0, 1
    if dist.is_initialized():
        rank, num_processes = dist.get_rank(), dist.get_world_size()
    batch = BATCH // num_processes
    rng = np.random.default_rng(seed * num_processes + rank)
    tokenizer = build_tokenizer(out / "tokenizer")
    if start:
        pipeline = StableDiffusionPipeline.from_pretrained(start, safety_checker=None).to(
            torch.float32
        )
        some = np.random.default_rng(0).choice(
            len(corpus.images), min(_CARRIED, len(corpus.images))
        )
        unet, text = carry_over(pipeline, vae, corpus.images[some]), pipeline.text_encoder
    else:
        torch.manual_seed(seed)  # the same weights in every process
        unet = new_unet(vae.config.latent_channels)
        text = new_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    torch.manual_seed(seed * num_processes + rank)  # noise of its own in every process
    # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
    unet.set_attn_processor(AttnProcessor())
    unet.train()
    text.train()
    predict = torch.compile(unet) if compiled else unet
    tokens = tokenizer(
        ["", *corpus.prompts()],
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    kept = out.with_suffix(f".latents-{rank}.safetensors")
    if not kept.exists():
        ways = _WAYS[rank * 4 % 8 : rank * 4 % 8 + 4]  # of another process the other four
        save_file({"latents": encode_corpus(vae, corpus, ways)}, kept)
    latents = load_file(kept)["latents"]
    print(f"{len(latents)} images, latent std {latents.float().std():.3f}", flush=True)
    noise_schedule = DDPMScheduler(**NOISE_SCHEDULE)
    params = [*unet.parameters(), *text.parameters()]
    average = [p.detach().clone() for p in params]
    peak = 5e-4
    optimizer = torch.optim.AdamW(params, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
    weights = corpus.sampling_weights()
    t0, step, losses, saved = time.time(), 0, [], time.time()
    while (done := _agreed((time.time() - t0) / (60 * minutes))) < 1:
        lr = peak * min(1, (step + 1) / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pick = rng.choice(len(weights), batch, p=weights)
        z = latents[pick, rng.integers(latents.shape[1], size=batch)].float()
        rows = np.where(rng.random(batch) < DROP_PROMPT, 0, pick + 1)
        unique, inverse = np.unique(tokens[rows].numpy(), axis=0, return_inverse=True)
        noise = torch.randn_like(z)
        # One timestep from each of equal slices: a lower variance of the loss than free draws.
        slices = (np.arange(batch) + rng.random(batch)) / batch
        t = torch.from_numpy((slices * 1000).astype(np.int64))
        with native_bfloat16():
            context = text(torch.from_numpy(unique)).last_hidden_state[inverse.reshape(-1)]
            found = predict(
                noise_schedule.add_noise(z, noise, t), t, encoder_hidden_states=context
            ).sample
        alpha = noise_schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        target, weight = target_and_weight(PREDICTION, z, noise, alpha, 0.0)
        loss = ((found.float() - target).square() * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _share_gradients(params)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        keep = min(0.9995, step / (step + 20))
        torch._foreach_lerp_(average, [p.detach() for p in params], 1 - keep)
        losses.append(loss.item())
        if step % 200 == 0:
            print(
                f"{step} {time.time() - t0:.0f}s loss {np.mean(losses[-200:]):.4f} lr {lr:.1e}",
                flush=True,
            )
        if rank == 0 and time.time() - saved > 600:
            save(out, vae, unet, text, tokenizer, params, average)
            saved = time.time()
    if rank:
        return
    save(out, vae, unet, text, tokenizer, params, average)
    record = {
        "steps": step,
        "batch": batch * num_processes,
        "minutes": minutes,
        "seed": seed,
        "loss": float(np.mean(losses[-1000:])),
        "start": _record_of(start) if start else None,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1))


def _record_of(start: Path) -> dict:
    """How a pipeline was trained: just now, or before it was exported."""
    kept = start / "training.json"
    if kept.exists():
        return json.loads(kept.read_text())
    return json.loads((start / "manifest.json").read_text())["training"]


def _agreed(done: float) -> float:
    """What the first process says."""
    if not dist.is_initialized():
        return done
    value = torch.tensor(done)
    dist.broadcast(value, 0)
    return float(value)


def _share_gradients(params: Sequence[torch.nn.Parameter]) -> None:
    """The mean over processes, in all of them."""
    if not dist.is_initialized():
        return
    flat = torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([p.numel() for p in params if p.grad is not None])
    for p, part in zip((p for p in params if p.grad is not None), parts, strict=True):
        p.grad.copy_(part.view_as(p))


def save(out: Path, vae, unet, text, tokenizer, params, average) -> None:
    """Write the pipeline with the averaged weights; training goes on with its own."""
    with torch.no_grad():
        own = [p.detach().clone() for p in params]
        for p, a in zip(params, average, strict=True):
            p.copy_(a)
        write_pipeline(out, vae, unet, text, tokenizer)
        for p, o in zip(params, own, strict=True):
            p.copy_(o)


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.set_defaults(phantoms_per_class=800)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    # torch.distributed.run takes --start for an abbreviation of options of its own.
    parser.add_argument("--start", "--go-on-from", type=Path, help="go on from this pipeline")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    vae = AutoencoderDC.from_pretrained(args.autoencoder).eval().requires_grad_(False)
    train(load_corpus(args), vae, args.out, args.minutes, args.seed, args.start, args.compile)
