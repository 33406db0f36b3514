"""Distil a base's guided sampling into a few unguided steps: an accelerator LoRA.

    python -m models.recipes.train_accelerator --name cyto-small

The teacher is the base itself, guided, with a fine solver.  From the same points, the base with a
LoRA learns to take one DDIM step where the teacher takes several: progressive distillation
(Salimans and Ho, arXiv 2202.00512) with the guidance distilled too (Meng et al., arXiv
2210.03142), kept as a LoRA as LCM-LoRA is (Luo et al., arXiv 2311.05556).  No image is read: all
that the LoRA learns from is drawn by the base.  The generator merges it into the base's UNet.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from models.recipes.export import write_accelerator
from services.common.bases import encode_prompts, load_pipeline, resolve_base
from services.common.cell_classes import class_prompt
from services.common.lora import (
    ATTENTION,
    CONVOLUTIONS,
    PROJECTIONS,
    LoraSpec,
    add_lora,
    lora_file,
)
from services.generator.sampler import starting_noise
from services.generator.solver import build_scheduler

BATCH = 64
MODELS = Path("models")
LORA = LoraSpec(64, 64.0, ATTENTION + CONVOLUTIONS + PROJECTIONS, text_targets=())
TEACHER = "unipc"
STUDENT = "ddim"
STEPS_OF_A_STEP = 3
"""Steps of the teacher for one of the student."""
_FIRST_SEED = 10**12
_DRAWN_TOGETHER = 32


@dataclass
class Paths:
    """What the teacher drew on the way from noise to image, at the student's timesteps.

    points: float16 (N, num_steps + 1, C, h, w), noise first; prompts: int64 (N,), their places
    in ``all_prompts``.
    """

    points: torch.Tensor
    prompts: torch.Tensor


def all_prompts(class_ids: tuple[str, ...], has_real: bool) -> list[str]:
    """A prompt per class; with those of phantoms, which come in every stain, if they differ."""
    prompts = [class_prompt(class_id) for class_id in class_ids]
    return prompts + [f"{prompt} phantom" for prompt in prompts] if has_real else prompts


@torch.inference_mode()
def draw_paths(
    name: str, num_steps: int, guidance_scale: float, first: int, num_paths: int, models: Path
) -> Paths:
    """Paths ``first`` to ``first + num_paths - 1``, whose noise and prompts hang on their number.

    Raises:
        ValueError: If teacher and student do not meet at the student's timesteps.
    """
    torch.set_num_threads(1)
    base = resolve_base(name, models)
    pipeline = load_pipeline(base)
    config = dict(pipeline.scheduler.config)
    teacher, student = build_scheduler(TEACHER, config), build_scheduler(STUDENT, config)
    student.set_timesteps(num_steps)
    teacher.set_timesteps(num_steps * STEPS_OF_A_STEP)
    if teacher.timesteps[::STEPS_OF_A_STEP].tolist() != student.timesteps.tolist():
        raise ValueError(f"{num_steps} steps of {STUDENT} are not at steps of {TEACHER}")
    tokens = embed(pipeline, base)
    nothing = encode_prompts(pipeline, [""]).tokens
    side = pipeline.unet.config.sample_size
    shape = (pipeline.unet.config.in_channels, side, side)
    points, chosen = [], []
    for start in range(first, first + num_paths, _DRAWN_TOGETHER):
        numbers = range(start, min(start + _DRAWN_TOGETHER, first + num_paths))
        prompts = torch.tensor([number % len(tokens) for number in numbers])
        x = torch.stack([starting_noise(_FIRST_SEED + number, shape) for number in numbers])
        both = torch.cat([tokens[prompts], nothing.expand(len(x), -1, -1)])
        teacher.set_timesteps(num_steps * STEPS_OF_A_STEP)  # forgets the batch before
        path = [x]
        for k, t in enumerate(teacher.timesteps):
            with torch.autocast("cpu", torch.bfloat16):
                v = pipeline.unet(torch.cat([x, x]), t, both).sample.float()
            guided, without = v.chunk(2)
            v = without + guidance_scale * (guided - without)
            x = teacher.step(v, t, x, return_dict=False)[0]
            if (k + 1) % STEPS_OF_A_STEP == 0:
                path.append(x)
        points.append(torch.stack(path, 1).half())
        chosen.append(prompts)
    return Paths(torch.cat(points), torch.cat(chosen))


def draw_in_processes(
    name: str, num_steps: int, guidance_scale: float, num_paths: int, models: Path, workers: int
) -> Paths:
    """The same from several processes."""
    share = -(-num_paths // workers)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        tasks = [
            pool.submit(draw_paths, name, num_steps, guidance_scale, i * share, share, models)
            for i in range(workers)
        ]
        parts = [task.result() for task in tasks]
    return Paths(torch.cat([p.points for p in parts]), torch.cat([p.prompts for p in parts]))


@torch.no_grad()
def embed(pipeline, base) -> torch.Tensor:
    """Embeddings (P, T, C) of ``all_prompts`` of a base."""
    has_real = bool(base.manifest.get("digests"))
    prompts = all_prompts(base.class_ids, has_real)
    return torch.cat([encode_prompts(pipeline, [prompt]).tokens for prompt in prompts])


def velocity_to(
    schedule: DDIMScheduler, k: torch.Tensor, x: torch.Tensor, end: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The v whose DDIM step from ``x`` (N, C, h, w), step ``k`` (N,), ends at ``end``.

    Returns:
        v, and by how much (N, 1, 1, 1) an error in it moves the end.
    """
    alphas = schedule.alphas_cumprod[schedule.timesteps]
    alphas = torch.cat([alphas, schedule.final_alpha_cumprod.reshape(1)])[:, None, None, None]
    signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
    # x = a x0 + s eps and v = a eps - s x0, so x0 = a x - s v and eps = s x + a v
    a, s, a_end, s_end = signal[k], noise[k], signal[k + 1], noise[k + 1]
    moved = s_end * a - a_end * s
    return (end - (a_end * a + s_end * s) * x) / moved, moved


@torch.autocast("cpu", enabled=False)
def summed_weights(
    unet: UNet2DConditionModel, lora: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Weights of the layers that have LoRA, the product of its matrices added."""
    summed = {}
    for name, down in lora.items():
        layer, is_down, _ = name.removeprefix("unet.").partition(".lora_A.")
        if is_down:
            up = lora[name.replace(".lora_A.", ".lora_B.")]
            weight = unet.get_parameter(f"{layer}.weight")
            product = up.flatten(1) @ down.flatten(1) * (LORA.alpha / LORA.rank)
            summed[f"{layer}.weight"] = weight + product.view_as(weight)
    return summed


def train(
    pipeline,
    tokens: torch.Tensor,
    paths: Paths,
    minutes: float,
    seed: int,
    peak: float,
    compiled: bool,
) -> tuple[bytes, dict[str, object]]:
    """Train for ``minutes`` of wall time; gives the LoRA file and the record of its training.

    The v that the student is to predict is the one whose DDIM step ends where the teacher did;
    its error is weighted by how far it moves the step's end.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    unet = copy.deepcopy(pipeline.unet)  # evaluated with summed weights: half the cost of peft's
    # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
    unet.set_attn_processor(AttnProcessor())
    named = add_lora(pipeline, LORA, seed)
    parameters = list(named.values())
    call = partial(functional_call, unet)
    predict = torch.compile(call) if compiled else call
    num_steps = paths.points.shape[1] - 1
    schedule = build_scheduler(STUDENT, dict(pipeline.scheduler.config))
    schedule.set_timesteps(num_steps)
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=0)
    t0, step, done, losses = time.time(), 0, 0.0, []
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                peak * min(1, (step + 1) / 100) * max(0.01, 0.5 * (1 + np.cos(np.pi * done)))
            )
        pick = torch.from_numpy(rng.integers(len(paths.points), size=BATCH))
        k = torch.from_numpy(rng.integers(num_steps, size=BATCH))
        x, end = paths.points[pick, k].float(), paths.points[pick, k + 1].float()
        target, moved = velocity_to(schedule, k, x, end)
        inputs = (x, schedule.timesteps[k], tokens[paths.prompts[pick]])
        with torch.autocast("cpu", torch.bfloat16):
            v = predict(summed_weights(unet, named), inputs).sample
        loss = ((v.float() - target) * moved.abs().clamp(min=0.3)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"{step} {time.time() - t0:.0f}s loss {np.mean(losses[-100:]):.5f}", flush=True)
    for parameter in parameters:
        parameter.data = parameter.data.half()
    return lora_file(pipeline), {
        "steps": step,
        "batch": BATCH,
        "minutes": minutes,
        "seed": seed,
        "loss": float(np.mean(losses[-200:])),
        "paths": len(paths.points),
        "rank": LORA.rank,
    }


def main() -> None:
    """Draw with the teacher, train the student, put it into ``models/<name>-accelerator``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the base, below models/")
    parser.add_argument("--num-steps", type=int, default=4, help="of the student")
    parser.add_argument("--guidance-scale", type=float, default=2.0, help="of the teacher")
    parser.add_argument("--paths", type=int, default=10_240, help="images that the teacher draws")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--cache", type=Path, default=Path("build/accelerator"), help="paths")
    args = parser.parse_args()
    base = resolve_base(args.name, MODELS)
    kept = args.cache / (
        f"{base.revision[:16]}-{args.num_steps}-{args.guidance_scale:g}-{args.paths}.safetensors"
    )
    if not kept.exists():
        drawn = draw_in_processes(
            args.name, args.num_steps, args.guidance_scale, args.paths, MODELS, args.threads
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({"points": drawn.points, "prompts": drawn.prompts}, kept)
    paths = Paths(**load_file(kept))
    print(f"{len(paths.points)} paths", flush=True)
    torch.set_num_threads(args.threads)
    pipeline = load_pipeline(base)
    data, record = train(
        pipeline,
        embed(pipeline, base),
        paths,
        args.minutes,
        args.seed,
        args.peak,
        args.compile,
    )
    record |= {"num_steps": args.num_steps, "guidance_scale": args.guidance_scale}
    write_accelerator(MODELS / args.name, data, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
