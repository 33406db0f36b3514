"""Train a small base: UNet and text encoder (diffusers, 64 px).

    python -m pretraining.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms
    python -m pretraining.train_diffusion --autoencoder build/ae --out build/cyto-small \
        --real ../shared/data/wbc-pbc-barcelona

    OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node 2 \
        -m pretraining.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms

    python -m pretraining.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms --device cuda --batch 1024 --learning-rate 1e-3

The UNet predicts the image: a latent has half as many channels as the UNet, which noise of so many
channels does not pass (Li and He, arXiv 2511.13720). The loss is that of v-prediction (Salimans and
Ho, arXiv 2202.00512), capped at low noise. The schedule is a cosine whose last step is nearly pure
noise, so that the stain's overall colour is learned too. 10 % of the prompts are dropped for
classifier-free guidance.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderDC, DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from pretraining.corpus import Corpus
from pretraining.data_parallel import agreed, average_gradients
from pretraining.diffusion_models import (
    NOISE_SCHEDULE,
    PREDICTION,
    PlainUNet,
    carry_over,
    cuda_graphed,
    new_text_encoder,
    new_unet,
    write_pipeline,
)
from pretraining.latent_batches import FreshLatents, KeptLatents, Latents
from pretraining.native_bfloat16 import native_bfloat16
from pretraining.tokenizer import MAX_TOKENS, build_tokenizer
from pretraining.train_autoencoder import corpus_parser, load_corpus
from services.trainer.adapters.diffusion_loss import target_and_weight

BATCH = 64
PEAK_RATE = 5e-4
DROP_PROMPT = 0.1
_ORIENTATIONS = (0, 3, 5, 6, 1, 2, 4, 7)
_CARRIED = 400
"""Images on which latents are compared to carry a UNet over to another autoencoder."""


def train(
    corpus: Corpus,
    vae: torch.nn.Module,
    out: Path,
    minutes: float,
    seed: int,
    start: Path | None,
    compiled: bool,
    device: str = "cpu",
    batch: int = BATCH,
    peak: float = PEAK_RATE,
) -> None:
    """Train for ``minutes`` of wall time, saving averaged weights regularly.

    Where torch.distributed runs, the processes share a minibatch.

    Args:
        corpus: Images and classes.
        vae: The autoencoder, which is not trained.
        out: Folder of the pipeline and of ``training.json``.
        minutes: Wall time.
        seed: Seed of every random value.
        start: Pipeline to continue from; None: from random weights.
        compiled: Whether to use torch.compile.
        device: "cpu" or "cuda".
        batch: Images per step.
        peak: Highest learning rate.
    """
    rank, num_processes = 0, 1
    if dist.is_initialized():
        rank, num_processes = dist.get_rank(), dist.get_world_size()
    batch //= num_processes
    rng = np.random.default_rng(seed * num_processes + rank)
    tokenizer = build_tokenizer(out / "tokenizer")
    if start:
        pipeline = StableDiffusionPipeline.from_pretrained(start, safety_checker=None).to(
            torch.float32
        )
        compared = np.random.default_rng(0).choice(
            len(corpus.images), min(_CARRIED, len(corpus.images))
        )
        unet, text = carry_over(pipeline, vae, corpus.images[compared]), pipeline.text_encoder
    else:
        torch.manual_seed(seed)  # the same weights in every process
        unet = new_unet(vae.config.latent_channels)
        text = new_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    torch.manual_seed(seed * num_processes + rank)  # another noise in every process
    for part in (unet, text, vae):
        part.to(device)
    latents: Latents
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        unet.to(memory_format=torch.channels_last)
        unet.set_attn_processor(AttnProcessor2_0())
        latents = FreshLatents(vae, corpus, device, seed)
    else:
        # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
        unet.set_attn_processor(AttnProcessor())
        # Another process takes the other four.
        some = _ORIENTATIONS[rank * 4 % 8 : rank * 4 % 8 + 4]
        latents = KeptLatents(vae, corpus, out.with_suffix(f".latents-{rank}.safetensors"), some)
    unet.train()
    text.train()
    predict: torch.nn.Module = PlainUNet(unet)
    if compiled:
        predict = torch.compile(predict)
    elif device == "cuda":
        predict = cuda_graphed(predict, batch, vae.config.latent_channels)
    tokens = tokenizer(
        ["", *corpus.prompts()],
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    distinct, prompt_of = np.unique(tokens.numpy(), axis=0, return_inverse=True)
    distinct, prompt_of = torch.from_numpy(distinct).to(device), prompt_of.reshape(-1)
    noise_schedule = DDPMScheduler(**NOISE_SCHEDULE)
    alphas = noise_schedule.alphas_cumprod.to(device)
    params = [*unet.parameters(), *text.parameters()]
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(
        params, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=device == "cuda"
    )
    weights = corpus.sampling_weights()
    losses: deque[torch.Tensor] = deque(maxlen=1000)
    t0, step, saved = time.time(), 0, time.time()
    between = min(600, max(20, 6 * minutes))  # seconds: at most a tenth is lost with the machine
    while (done := agreed((time.time() - t0) / (60 * minutes))) < 1:
        lr = peak * min(1, (step + 1) / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pick = rng.choice(len(weights), batch, p=weights)
        z = latents.minibatch(pick, rng)
        prompts = prompt_of[np.where(rng.random(batch) < DROP_PROMPT, 0, pick + 1)]
        noise = torch.randn_like(z)
        # One timestep from each of equal slices: a lower variance than independent samples.
        slices = (np.arange(batch) + rng.random(batch)) / batch
        t = torch.from_numpy((slices * 1000).astype(np.int64)).to(device)
        alpha = alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        with native_bfloat16(device):
            context = text(distinct).last_hidden_state[torch.from_numpy(prompts).to(device)]
            found = predict(noisy, t, context)
        target, weight = target_and_weight(PREDICTION, z, noise, alpha, 0.0)
        loss = ((found.float() - target).square() * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(params)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        keep = min(0.9995, step / (step + 20))
        torch._foreach_lerp_(average, [p.detach() for p in params], 1 - keep)
        losses.append(loss.detach())
        if step % 200 == 0:
            mean = torch.stack(list(losses)[-200:]).mean().item()
            print(f"{step} {time.time() - t0:.0f}s loss {mean:.4f} lr {lr:.1e}", flush=True)
        if rank == 0 and time.time() - saved > between:
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
        "loss": torch.stack(list(losses)).mean().item(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "start": _record_of(start) if start else None,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1))


def _record_of(start: Path) -> dict:
    """The training record of a pipeline, exported or not."""
    kept = start / "training.json"
    if kept.exists():
        return json.loads(kept.read_text())
    return json.loads((start / "manifest.json").read_text())["training"]


def save(out: Path, vae, unet, text, tokenizer, params, average) -> None:
    """Write the pipeline with the averaged weights; training continues with its own."""
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
    parser.add_argument("--start", "--go-on-from", type=Path, help="continue from this pipeline")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--learning-rate", type=float, default=PEAK_RATE)
    args = parser.parse_args()
    if args.device == "cuda" and "RANK" in os.environ:
        parser.error("--device cuda takes one process: start it without torch.distributed.run")
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    vae = AutoencoderDC.from_pretrained(args.autoencoder).eval().requires_grad_(False)
    how = args.minutes, args.seed, args.start, args.compile
    train(load_corpus(args), vae, args.out, *how, args.device, args.batch, args.learning_rate)
