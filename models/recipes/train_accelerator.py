"""Distil a base's guided sampling into a few unguided steps: an accelerator LoRA.

    python -m models.recipes.train_accelerator --name cyto-small

The teacher is the base itself, guided, with a fine solver.  From the same points, the base with a
LoRA learns to take one DDIM step where the teacher takes several: progressive distillation
(Salimans and Ho, arXiv 2202.00512) with the guidance distilled too (Meng et al., arXiv
2210.03142), kept as a LoRA as LCM-LoRA is (Luo et al., arXiv 2311.05556).  The generator merges it
into the base's UNet, and hospitals' adapters go on top; so half of what it learns from is drawn
with adapters, each fitted on a phantom hospital of its own.  No real image is read.
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

from cytosynth.phantoms import render_phantom, sample_laboratory
from models.recipes.export import write_accelerator
from services.common.bases import Base, load_pipeline, resolve_base
from services.common.cell_classes import class_prompt
from services.common.lora import (
    ADAPTER_NAME,
    ATTENTION,
    CONVOLUTIONS,
    PROJECTIONS,
    WEIGHTS_FILE,
    LoraSpec,
    add_lora,
    encode_with_lora,
    lora_file,
    read_lora,
)
from services.generator.sampler import starting_noise
from services.generator.solver import build_scheduler
from services.trainer.adapter_recipe import AdapterSettings
from services.trainer.train_adapter import NoCheckpoints, train_adapter

BATCH = 64
MODELS = Path("models")
LORA = LoraSpec(64, 64.0, ATTENTION + CONVOLUTIONS + PROJECTIONS, text_targets=())
TEACHER = "unipc"
STUDENT = "ddim"
STEPS_OF_A_STEP = 3
"""Steps of the teacher for one of the student."""
CLASSES_OF_A_HOSPITAL, CELLS_OF_A_CLASS = 6, 10
_FIRST_SEED = 10**12
_DRAWN_TOGETHER = 32


@dataclass
class Source:
    """A base, or a base with an adapter, as a teacher draws with it.

    Attributes:
        prompts: What it is asked for.
        adapter: LoRA file; None: the base alone.
    """

    prompts: list[str]
    adapter: bytes | None = None

    def embed(self, pipeline) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of its prompts (P, T, C), and of the empty one (1, T, C)."""
        encoded = encode_with_lora(pipeline, self.adapter, [*self.prompts, ""])
        tokens = torch.stack([one.tokens for one in encoded]).clone()
        return tokens[:-1], tokens[-1:]

    def added_weights(self, pipeline) -> dict[str, torch.Tensor]:
        """What the adapter adds to the UNet's weights, by name."""
        pairs = read_lora(pipeline, self.adapter) if self.adapter else {}
        weights = {name: pipeline.unet.get_parameter(f"{name}.weight") for name in pairs}
        return {
            f"{name}.weight": (up @ down.flatten(1)).view_as(weights[name])
            for name, (down, up) in pairs.items()
        }


@dataclass
class Paths:
    """What the teacher drew on the way from noise to image, at the student's timesteps.

    points: float16 (N, num_steps + 1, C, h, w), noise first; prompts: int64 (N,), places among
    the prompts of the source.
    """

    points: torch.Tensor
    prompts: torch.Tensor


def base_source(base: Base) -> Source:
    """The base alone, with a prompt per class; and per class of phantoms, where those differ."""
    prompts = [class_prompt(class_id) for class_id in base.class_ids or ()]
    if base.manifest.get("digests"):  # it has seen real cells, see corpus.py
        prompts += [f"{prompt} phantom" for prompt in prompts]
    return Source(prompts)


def fit_adapter(name: str, seed: int, models: Path) -> Source:
    """An adapter fitted by the trainer's default recipe on a phantom hospital of its own."""
    torch.set_num_threads(1)
    base = resolve_base(name, models)
    rng = np.random.default_rng(_FIRST_SEED + seed)
    laboratory = sample_laboratory(rng)
    class_ids = sorted(rng.choice(base.class_ids, CLASSES_OF_A_HOSPITAL, replace=False))
    of_cells = [class_id for class_id in class_ids for _ in range(CELLS_OF_A_CLASS)]
    images = [
        render_phantom(class_id, laboratory, int(rng.integers(2**40)), base.image_size_px).image
        for class_id in of_cells
    ]
    fitted = train_adapter(
        np.stack(images),
        of_cells,
        base,
        AdapterSettings(seed=seed),
        lambda *_: None,
        NoCheckpoints(),
    )
    [data] = fitted.files.values()
    return Source([class_prompt(class_id) for class_id in class_ids], data)


@torch.inference_mode()
def draw_paths(
    name: str,
    source: Source,
    num_steps: int,
    guidance_scale: float,
    first: int,
    num_paths: int,
    models: Path,
) -> Paths:
    """Paths ``first`` to ``first + num_paths - 1``, whose noise and prompts hang on their number.

    Raises:
        ValueError: If teacher and student do not meet at the student's timesteps.
    """
    torch.set_num_threads(1)
    pipeline = load_pipeline(resolve_base(name, models))
    config = dict(pipeline.scheduler.config)
    teacher, student = build_scheduler(TEACHER, config), build_scheduler(STUDENT, config)
    student.set_timesteps(num_steps)
    teacher.set_timesteps(num_steps * STEPS_OF_A_STEP)
    if teacher.timesteps[::STEPS_OF_A_STEP].tolist() != student.timesteps.tolist():
        raise ValueError(f"{num_steps} steps of {STUDENT} are not at steps of {TEACHER}")
    tokens, nothing = source.embed(pipeline)
    for parameter, added in source.added_weights(pipeline).items():
        pipeline.unet.get_parameter(parameter).add_(added)
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
    unet: UNet2DConditionModel,
    lora: dict[str, torch.nn.Parameter],
    added: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Weights of the layers that have LoRA, the product of its matrices and ``added`` added."""
    summed = {}
    for name, down in lora.items():
        layer, is_down, _ = name.removeprefix("unet.").partition(".lora_A.")
        if is_down:
            up = lora[name.replace(".lora_A.", ".lora_B.")]
            weight = unet.get_parameter(f"{layer}.weight")
            product = up.flatten(1) @ down.flatten(1) * (LORA.alpha / LORA.rank)
            summed[f"{layer}.weight"] = weight + product.view_as(weight)
    for name, more in (added or {}).items():
        summed[name] = summed[name] + more
    return summed


def train(
    pipeline,
    sources: list[Source],
    paths: list[Paths],
    minutes: float,
    seed: int,
    peak: float,
    compiled: bool,
    start: bytes | None = None,
) -> tuple[bytes, dict[str, object]]:
    """Train for ``minutes`` of wall time; gives the LoRA file and the record of its training.

    The v that the student is to predict is the one whose DDIM step ends where the teacher did;
    its error is weighted by how far it moves the step's end.  Half of the batches are of the
    first source, the base alone.

    Args:
        pipeline: The base; has the LoRA on it afterwards.
        sources: Whom the paths are of.
        paths: Of each source.
        minutes: Of wall time, compiling included.
        seed: Of LoRA and batches.
        peak: Learning rate, which rises to this and falls as a cosine.
        compiled: Use ``torch.compile``.
        start: LoRA file to go on from.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    unet = copy.deepcopy(pipeline.unet)  # evaluated with summed weights: half the cost of peft's
    # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
    unet.set_attn_processor(AttnProcessor())
    tokens = [source.embed(pipeline)[0] for source in sources]
    added = [source.added_weights(pipeline) for source in sources]
    begun = read_lora(pipeline, start) if start else {}
    named = add_lora(pipeline, LORA, seed)
    with torch.no_grad():
        for layer, (down, up) in begun.items():
            for part, matrix in (("A", down), ("B", up * (LORA.rank / LORA.alpha))):
                parameter = named[f"unet.{layer}.lora_{part}.{ADAPTER_NAME}.weight"]
                parameter.copy_(matrix.view_as(parameter))
    parameters = list(named.values())
    call = partial(functional_call, unet)
    predict = torch.compile(call) if compiled else call
    num_steps = paths[0].points.shape[1] - 1
    schedule = build_scheduler(STUDENT, dict(pipeline.scheduler.config))
    schedule.set_timesteps(num_steps)
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=0)
    t0, step, done, losses = time.time(), 0, 0.0, []
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                peak * min(1, (step + 1) / 100) * max(0.01, 0.5 * (1 + np.cos(np.pi * done)))
            )
        s = 0 if len(sources) == 1 or rng.random() < 0.5 else int(rng.integers(1, len(sources)))
        pick = torch.from_numpy(rng.integers(len(paths[s].points), size=BATCH))
        k = torch.from_numpy(rng.integers(num_steps, size=BATCH))
        x, end = paths[s].points[pick, k].float(), paths[s].points[pick, k + 1].float()
        target, moved = velocity_to(schedule, k, x, end)
        inputs = (x, schedule.timesteps[k], tokens[s][paths[s].prompts[pick]])
        with torch.autocast("cpu", torch.bfloat16):
            v = predict(summed_weights(unet, named, added[s]), inputs).sample
        loss = ((v.float() - target) * moved.abs().clamp(min=0.3)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        losses.append((s > 0, loss.item()))
        if step % 100 == 0:
            print(f"{step} {time.time() - t0:.0f}s loss {_means(losses[-100:])}", flush=True)
    for parameter in parameters:
        parameter.data = parameter.data.half()
    return lora_file(pipeline), {
        "steps": step,
        "batch": BATCH,
        "minutes": minutes,
        "seed": seed,
        "loss": _means(losses[-300:]),
        "paths": sum(len(one.points) for one in paths),
        "adapters": len(sources) - 1,
        "rank": LORA.rank,
    }


def _means(losses: list[tuple[bool, float]]) -> dict[str, float]:
    """Mean losses of the base alone and with adapters."""
    parts = {"base": [v for with_one, v in losses if not with_one]}
    parts["with_adapters"] = [v for with_one, v in losses if with_one]
    return {name: round(float(np.mean(values)), 6) for name, values in parts.items() if values}


def make_paths(args: argparse.Namespace, base: Base) -> tuple[list[Source], list[Paths]]:
    """Fit the adapters and draw with all; kept in ``args.cache``."""
    adapters = args.cache / f"{base.revision[:16]}-adapters-{args.adapters}"
    drawn = args.cache / f"{adapters.name}-{args.num_steps}-{args.guidance_scale:g}-{args.paths}"
    for folder in (adapters, drawn):
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.threads, get_context("spawn")) as pool:
        kept = [adapters / f"{i}.safetensors" for i in range(args.adapters)]
        tasks = {
            file: pool.submit(fit_adapter, args.name, i, MODELS)
            for i, file in enumerate(kept)
            if not file.exists()
        }
        for file, task in tasks.items():
            fitted = task.result()
            file.with_suffix(".json").write_text(json.dumps(fitted.prompts))
            file.write_bytes(fitted.adapter)
        sources = [base_source(base)]
        for file in kept:
            prompts = json.loads(file.with_suffix(".json").read_text())
            sources.append(Source(prompts, file.read_bytes()))
        shares = [args.paths] + [args.paths // 2 // max(1, args.adapters)] * args.adapters
        files = [drawn / f"{i}.safetensors" for i in range(len(sources))]
        how = (args.num_steps, args.guidance_scale)
        tasks = {
            file: pool.submit(draw_paths, args.name, source, *how, i * args.paths, num, MODELS)
            for i, (file, source, num) in enumerate(zip(files, sources, shares, strict=True))
            if not file.exists()
        }
        for file, task in tasks.items():
            paths = task.result()
            save_file({"points": paths.points, "prompts": paths.prompts}, file)
    return sources, [Paths(**load_file(file)) for file in files]


def main() -> None:
    """Draw with the teacher, train the student, put it into ``models/<name>-accelerator``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the base, below models/")
    parser.add_argument("--num-steps", type=int, default=4, help="of the student")
    parser.add_argument("--guidance-scale", type=float, default=2.0, help="of the teacher")
    parser.add_argument("--adapters", type=int, default=6, help="on phantom hospitals")
    parser.add_argument(
        "--paths", type=int, default=10_240, help="of the base; half as many with adapters"
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--start", type=Path, help="go on from this accelerator's folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--cache", type=Path, default=Path("build/accelerator"), help="paths")
    args = parser.parse_args()
    base = resolve_base(args.name, MODELS)
    sources, paths = make_paths(args, base)
    print(f"{[len(one.points) for one in paths]} paths", flush=True)
    torch.set_num_threads(args.threads)
    data, record = train(
        load_pipeline(base),
        sources,
        paths,
        args.minutes,
        args.seed,
        args.peak,
        args.compile,
        (args.start / WEIGHTS_FILE).read_bytes() if args.start else None,
    )
    record |= {"num_steps": args.num_steps, "guidance_scale": args.guidance_scale}
    if args.start:
        record["start"] = json.loads((args.start / "manifest.json").read_text())["training"]
    write_accelerator(MODELS / args.name, data, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
