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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.func import functional_call

from models.recipes.export import write_accelerator
from models.recipes.guided_paths import Paths, Teacher, embed, kept_paths
from models.recipes.native_bfloat16 import native_bfloat16
from services.common.bases import load_pipeline, resolve_base
from services.common.lora import (
    ATTENTION,
    CONVOLUTIONS,
    PROJECTIONS,
    LoraSpec,
    add_lora,
    lora_file,
)
from services.generator.solver import build_scheduler

BATCH = 64
MODELS = Path("models")
LORA = LoraSpec(64, 64.0, ATTENTION + CONVOLUTIONS + PROJECTIONS, text_targets=())
STUDENT = "ddim"
STEPS_OF_A_STEP = 3
"""Steps of the teacher for one of the student."""


def teacher_of(config: dict[str, object], num_steps: int, guidance_scale: float) -> Teacher:
    """The teacher of a student of ``num_steps``.

    Raises:
        ValueError: If the two do not meet at the student's timesteps.
    """
    teacher = Teacher("unipc", num_steps * STEPS_OF_A_STEP, STEPS_OF_A_STEP, guidance_scale)
    finer, student = build_scheduler(teacher.scheduler, config), build_scheduler(STUDENT, config)
    finer.set_timesteps(teacher.num_steps)
    student.set_timesteps(num_steps)
    if finer.timesteps[::STEPS_OF_A_STEP].tolist() != student.timesteps.tolist():
        raise ValueError(f"{num_steps} steps of {STUDENT} are not at steps of {teacher.scheduler}")
    return teacher


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
        with native_bfloat16():
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
    parser.add_argument("--cache", type=Path, default=Path("build/paths"), help="paths")
    args = parser.parse_args()
    base = resolve_base(args.name, MODELS)
    teacher = teacher_of(
        dict(load_pipeline(base).scheduler.config), args.num_steps, args.guidance_scale
    )
    paths = kept_paths(args.cache, base, teacher, args.paths, MODELS, args.threads)
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
