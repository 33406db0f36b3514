"""Guided sampling paths of a base, to which solvers are fitted."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from cytosynth.cell_classes import class_prompt
from pretraining.native_bfloat16 import native_bfloat16
from services.common.models.diffusion_bases import Base, load_pipeline, resolve_base
from services.common.models.pipelines import encode_prompts
from services.generator.engine.denoiser import starting_noise
from services.generator.engine.solver import build_scheduler

_FIRST_SEED = 10**12
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Teacher:
    """A guided solver; each ``keep_every``-th point is kept."""

    scheduler: str
    num_steps: int
    keep_every: int
    guidance_scale: float


@dataclass
class Paths:
    """Paths of a teacher from noise to image.

    points: float16 (N, num_steps / keep_every + 1, C, h, w), noise first; prompts: int64 (N,),
    indices into ``all_prompts``.
    """

    points: torch.Tensor
    prompts: torch.Tensor


def all_prompts(class_ids: tuple[str, ...], has_real: bool) -> list[str]:
    """A prompt per class, and those of phantoms if they differ."""
    prompts = [class_prompt(class_id) for class_id in class_ids]
    return prompts + [f"{prompt} phantom" for prompt in prompts] if has_real else prompts


@torch.no_grad()
def embed(pipeline: StableDiffusionPipeline, base: Base) -> torch.Tensor:
    """Embeddings (P, T, C) of ``all_prompts`` of a base."""
    has_real = bool(base.manifest.get("digests"))
    prompts = all_prompts(base.class_ids, has_real)
    return torch.cat([encode_prompts(pipeline, [prompt]).tokens for prompt in prompts])


@torch.inference_mode()
def sample_paths(name: str, teacher: Teacher, first: int, num_paths: int, models: Path) -> Paths:
    """Paths from number ``first``; the number determines noise and prompt."""
    torch.set_num_threads(1)
    base = resolve_base(name, models)
    pipeline = load_pipeline(base)
    scheduler = build_scheduler(teacher.scheduler, dict(pipeline.scheduler.config))
    tokens = embed(pipeline, base)
    empty = encode_prompts(pipeline, [""]).tokens
    size = pipeline.unet.config.sample_size
    shape = (pipeline.unet.config.in_channels, size, size)
    points, chosen = [], []
    for start in range(first, first + num_paths, _BATCH_SIZE):
        numbers = range(start, min(start + _BATCH_SIZE, first + num_paths))
        prompts = torch.tensor([number % len(tokens) for number in numbers])
        x = torch.stack([starting_noise(_FIRST_SEED + number, shape) for number in numbers])
        both = torch.cat([tokens[prompts], empty.expand(len(x), -1, -1)])
        scheduler.set_timesteps(teacher.num_steps)  # resets the multistep state
        path = [x]
        for k, t in enumerate(scheduler.timesteps):
            with native_bfloat16():
                v = pipeline.unet(torch.cat([x, x]), t, both).sample.float()
            prompted, without = v.chunk(2)
            v = without + teacher.guidance_scale * (prompted - without)
            x = scheduler.step(v, t, x, return_dict=False)[0]
            if (k + 1) % teacher.keep_every == 0:
                path.append(x)
        points.append(torch.stack(path, 1).half())
        chosen.append(prompts)
    return Paths(torch.cat(points), torch.cat(chosen))


def kept_paths(
    cache: Path, base: Base, teacher: Teacher, num_paths: int, models: Path, workers: int
) -> Paths:
    """The first ``num_paths`` paths, sampled by several processes unless ``cache`` has them."""
    name = f"{base.revision[:16]}-{teacher.scheduler}-{teacher.num_steps}-{teacher.keep_every}"
    kept = cache / f"{name}-{teacher.guidance_scale:g}-{num_paths}.safetensors"
    if not kept.exists():
        share = -(-num_paths // workers)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            tasks = [
                pool.submit(sample_paths, base.name, teacher, i * share, share, models)
                for i in range(workers)
            ]
            parts = [task.result() for task in tasks]
        sampled = {
            "points": torch.cat([part.points for part in parts]),
            "prompts": torch.cat([part.prompts for part in parts]),
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(sampled, kept)
    paths = Paths(**load_file(kept))
    print(f"{len(paths.points)} paths", flush=True)
    return paths
