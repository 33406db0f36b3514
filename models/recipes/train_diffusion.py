"""Train the UNet and text encoder of a small base (diffusers StableDiffusionPipeline, 64 px).

    python -m models.recipes.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms
    python -m models.recipes.train_diffusion --autoencoder build/ae --out build/cyto-small \
        --real ../shared/data/wbc-pbc-barcelona

v-prediction (Salimans and Ho, arXiv 2202.00512) on a cosine schedule, whose last step is nearly
pure noise so that the stain's overall colour is learned too; 10 % of the prompts dropped for
classifier-free guidance. At low noise the loss is weighted down as by min-SNR with gamma 5 (Hang
et al., arXiv 2303.09556); at high noise it is not, as class and stain are decided there.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
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

BATCH = 64
DROP_PROMPT = 0.1
MIN_SNR_GAMMA = 5.0
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet over (16, 8, 8) latents and 128-wide text embeddings; 7.9 M parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
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
def encode_corpus(vae: AutoencoderKL, corpus: Corpus, variants: int) -> torch.Tensor:
    """Scaled latents of every image in ``variants`` of its eight orientations.

    Returns float16 (N, variants, 16, 8, 8): orientation v of image i at [i, v].
    """
    images = torch.from_numpy(corpus.images).permute(0, 3, 1, 2)
    latents = torch.empty(len(images), variants, 16, 8, 8, dtype=torch.float16)
    for v in range(variants):
        k = v if variants == 8 else v * 3 % 8
        for start in range(0, len(images), 128):
            x = images[start : start + 128].float() / 127.5 - 1
            x = torch.rot90(x, k % 4, (2, 3))
            x = x.flip(3) if k >= 4 else x
            with native_bfloat16():
                z = vae.encode(x).latent_dist.mode()
            latents[start : start + 128, v] = z.float() * vae.config.scaling_factor
    return latents


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
    vae: AutoencoderKL,
    out: Path,
    minutes: float,
    seed: int,
    start: Path | None,
    compiled: bool,
) -> None:
    """Train for ``minutes`` of wall time, writing the averaged weights to ``out`` as it goes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = build_tokenizer(out / "tokenizer")
    if start:
        pipeline = StableDiffusionPipeline.from_pretrained(start, safety_checker=None)
        unet, text = pipeline.unet.float(), pipeline.text_encoder.float()
    else:
        unet = new_unet()
        text = new_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
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
    kept = out.with_suffix(".latents.safetensors")
    if not kept.exists():
        save_file({"latents": encode_corpus(vae, corpus, variants=4)}, kept)
    latents = load_file(kept)["latents"]
    print(f"{len(latents)} images, latent std {latents.float().std():.3f}", flush=True)
    noise_schedule = DDPMScheduler(**NOISE_SCHEDULE)
    alphas = noise_schedule.alphas_cumprod
    snr = alphas / (1 - alphas)
    params = [*unet.parameters(), *text.parameters()]
    average = [p.detach().clone() for p in params]
    peak = 5e-4
    optimizer = torch.optim.AdamW(params, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
    weights = corpus.sampling_weights()
    t0, step, done, losses, saved = time.time(), 0, 0.0, [], time.time()
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        lr = peak * min(1, (step + 1) / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pick = rng.choice(len(weights), BATCH, p=weights)
        z = latents[pick, rng.integers(latents.shape[1], size=BATCH)].float()
        rows = np.where(rng.random(BATCH) < DROP_PROMPT, 0, pick + 1)
        unique, inverse = np.unique(tokens[rows].numpy(), axis=0, return_inverse=True)
        noise = torch.randn_like(z)
        t = torch.randint(0, 1000, (BATCH,))
        with native_bfloat16():
            context = text(torch.from_numpy(unique)).last_hidden_state[inverse.reshape(-1)]
            v = predict(
                noise_schedule.add_noise(z, noise, t), t, encoder_hidden_states=context
            ).sample
        target = noise_schedule.get_velocity(z, noise, t)
        weight = (MIN_SNR_GAMMA / snr[t]).clamp(max=1)
        loss = ((v.float() - target).square().mean(dim=(1, 2, 3)) * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
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
        if time.time() - saved > 600:
            save(out, vae, unet, text, tokenizer, params, average)
            saved = time.time()
    save(out, vae, unet, text, tokenizer, params, average)
    record = {
        "steps": step,
        "batch": BATCH,
        "minutes": minutes,
        "seed": seed,
        "loss": float(np.mean(losses[-1000:])),
        "start": json.loads((start / "training.json").read_text()) if start else None,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1))


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
    parser.add_argument("--start", type=Path, help="go on from this pipeline")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vae = AutoencoderKL.from_pretrained(args.autoencoder).eval().requires_grad_(False)
    train(load_corpus(args), vae, args.out, args.minutes, args.seed, args.start, args.compile)
