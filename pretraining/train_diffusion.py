"""Train the UNet and text encoder of a small base (diffusers StableDiffusionPipeline, 64 px).

    python -m pretraining.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms
    python -m pretraining.train_diffusion --autoencoder build/ae --out build/cyto-small \
        --real ../shared/data/wbc-pbc-barcelona

    OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node 2 \
        -m pretraining.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms

    python -m pretraining.train_diffusion --autoencoder build/ae-phantoms \
        --out build/cyto-small-phantoms --device cuda --batch 1024 --learning-rate 1e-3

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
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

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
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from pretraining.corpus import Corpus
from pretraining.native_bfloat16 import native_bfloat16
from pretraining.tokenizer import MAX_TOKENS, build_tokenizer
from pretraining.train_autoencoder import corpus_parser, load_corpus
from services.trainer.adapters.diffusion_loss import target_and_weight
from services.trainer.augmentation.augment import augment_geometry
from services.trainer.augmentation.settings import AugmentSettings

BATCH = 64
PEAK_RATE = 5e-4
DROP_PROMPT = 0.1
PREDICTION = "sample"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": PREDICTION,
}
_WAYS = (0, 3, 5, 6, 1, 2, 4, 7)
_TURNED = AugmentSettings(resample_share=0.0)
_REAL_TURNED = AugmentSettings(resample_share=0.5, scale=0.15, translate=0.06)
"""Half of the real images turned by any angle, zoomed and shifted too, as there are few of them."""
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


class Latents(Protocol):
    """Scaled latents of the corpus."""

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """float32 (B, C, 8, 8), each image of ``rows`` in some view."""
        ...


class KeptLatents:
    """Encoded once and kept in a file, as a CPU takes long to encode."""

    def __init__(self, vae: torch.nn.Module, corpus: Corpus, kept: Path, ways: Sequence[int]):
        """Encodes them in these of their eight orientations, unless ``kept`` is there."""
        if not kept.exists():
            save_file({"latents": encode_corpus(vae, corpus, ways)}, kept)
        self._latents = load_file(kept)["latents"]

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """In one of the orientations that were kept."""
        ways = rng.integers(self._latents.shape[1], size=len(rows))
        return self._latents[rows, ways].float()


class FreshLatents:
    """Encoded anew in every step, real images in views without end: for a GPU."""

    def __init__(self, vae: torch.nn.Module, corpus: Corpus, device: str, seed: int) -> None:
        """``vae`` is on the device; the images move there."""
        self._vae, self._device, self._is_real = vae, device, corpus.is_real
        self._images = torch.from_numpy(corpus.images).to(device)
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """In one of eight orientations, or, if it is real, in any other too."""
        pixels = self._images[torch.from_numpy(rows).to(self._device)]
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        for views, chosen in ((_TURNED, ~self._is_real[rows]), (_REAL_TURNED, self._is_real[rows])):
            if chosen.any():
                where = torch.from_numpy(np.flatnonzero(chosen)).to(self._device)
                pixels[where] = augment_geometry(pixels[where], self._generator, views).clamp(0, 1)
        return encode(self._vae, pixels * 2 - 1)


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
    device: str = "cpu",
    batch: int = BATCH,
    peak: float = PEAK_RATE,
) -> None:
    """Train for ``minutes`` of wall time, writing the averaged weights to ``out`` as it goes.

    Where torch.distributed runs, processes share a batch.

    Args:
        corpus: Images and classes.
        vae: The autoencoder; it stays as it is.
        out: Folder of the pipeline and of ``training.json``.
        minutes: Of wall time.
        seed: Of everything that is drawn.
        start: Pipeline to go on from; None: from nothing.
        compiled: Whether to use torch.compile.
        device: "cpu" or "cuda".
        batch: Images a step.
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
        some = np.random.default_rng(0).choice(
            len(corpus.images), min(_CARRIED, len(corpus.images))
        )
        unet, text = carry_over(pipeline, vae, corpus.images[some]), pipeline.text_encoder
    else:
        torch.manual_seed(seed)  # the same weights in every process
        unet = new_unet(vae.config.latent_channels)
        text = new_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    torch.manual_seed(seed * num_processes + rank)  # noise of its own in every process
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
        ways = _WAYS[rank * 4 % 8 : rank * 4 % 8 + 4]  # of another process the other four
        latents = KeptLatents(vae, corpus, out.with_suffix(f".latents-{rank}.safetensors"), ways)
    unet.train()
    text.train()
    predict: torch.nn.Module = _Answer(unet)
    if compiled:
        predict = torch.compile(predict)
    elif device == "cuda":
        predict = _graphed(predict, batch, vae.config.latent_channels)
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
    while (done := _agreed((time.time() - t0) / (60 * minutes))) < 1:
        lr = peak * min(1, (step + 1) / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pick = rng.choice(len(weights), batch, p=weights)
        z = latents.draw(pick, rng)
        prompts = prompt_of[np.where(rng.random(batch) < DROP_PROMPT, 0, pick + 1)]
        noise = torch.randn_like(z)
        # One timestep from each of equal slices: a lower variance of the loss than free draws.
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
        _share_gradients(params)
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


class _Answer(torch.nn.Module):
    """A UNet whose answer is a plain tensor."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(B, C, 8, 8) for noisy latents, timesteps (B,) and text (B, T, 128)."""
        return self.unet(noisy, t, context, return_dict=False)[0]


def _graphed(model: torch.nn.Module, batch: int, channels: int) -> torch.nn.Module:
    """Its kernels launched together: 4,000 small ones a step take longer to launch than to run."""
    sample = (
        torch.randn(batch, channels, 8, 8, device="cuda"),
        torch.zeros(batch, dtype=torch.int64, device="cuda"),
        torch.randn(batch, MAX_TOKENS, 128, device="cuda", requires_grad=True),
    )
    # Casts of weights that autocast kept would belong to no graph.
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        return torch.cuda.make_graphed_callables(model, sample)


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
