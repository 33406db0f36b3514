"""Fit a base's bespoke solver to the results of the preset ``paper``.

    python -m pretraining.fit_solver --name cyto-small

Gradient descent through the whole solver (Shaul et al., "Bespoke Non-Stationary Solvers", arXiv
2403.01329), on coefficients and timesteps alone; the UNet stays unchanged.  The solver begins as
UniPC of as many steps.  No image is read: the base generates what the solver is fitted to.  For
Stable Diffusion pipelines with one text encoder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

from pretraining.export import write_bespoke_solver
from pretraining.guided_paths import Paths, Teacher, embed, kept_paths
from pretraining.native_bfloat16 import native_bfloat16
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.pipelines import decode_latents, encode_prompts
from services.generator.engine.solver import STATE_SIZE, build_solver
from services.generator.presets import PRESETS

BATCH = 16
HELD_OUT = 60
"""Paths held out to measure on."""
MODELS = Path("models")
PAPER = PRESETS["paper"]
TEACHER = Teacher(PAPER.scheduler, PAPER.num_steps, PAPER.num_steps, PAPER.guidance_scale)
START = "unipc"
_LEARNING_RATES = {"timesteps": 2e-2, "weights": 4e-3}

Predict = Callable[[torch.Tensor, torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor | None]]
"""Output (N, C, h, w), guided if asked to, and its guidance, for a sample and a timestep."""


class Coefficients(torch.nn.Module):
    """Learnable coefficients of a ``BespokeSolver`` (``bespoke_solvers.py``)."""

    def __init__(self, config: dict[str, object], num_steps: int, num_guided: int) -> None:
        """Begins with the steps of ``START`` for a scheduler's ``config``."""
        super().__init__()
        solver = build_solver(START, config, num_steps)
        state = torch.zeros(STATE_SIZE, 1 + num_steps)  # of the noise and of each output
        state[0, 0] = solver.noise_scale
        rows = []
        for k, step in enumerate(torch.from_numpy(solver.steps)):
            output = torch.zeros(1 + num_steps)
            output[1 + k] = 1
            state = step[:, :STATE_SIZE] @ state + step[:, STATE_SIZE, None] * output
            rows.append(state[0])
        weights = torch.stack(rows)
        self.num_guided = num_guided
        self.register_buffer("first", torch.tensor(float(solver.timesteps[0])))
        later = torch.from_numpy(solver.timesteps[1:]) / self.first
        self.later = torch.nn.Parameter(torch.logit(later))
        self.starts = torch.nn.Parameter(weights[:, 0].clone())
        self.outputs = torch.nn.Parameter(weights[:, 1:].clone())
        self.guidances = torch.nn.Parameter(torch.zeros(num_steps, num_guided))

    def timesteps(self) -> torch.Tensor:
        """Timesteps (K,), the first one fixed."""
        return torch.cat([self.first[None], self.first * torch.sigmoid(self.later)])

    def forward(self, noise: torch.Tensor, predict: Predict) -> torch.Tensor:
        """The solver's final sample, starting from ``noise`` (N, C, h, w)."""
        outputs: list[torch.Tensor] = []
        guidances: list[torch.Tensor] = []
        x = noise
        for k, t in enumerate(self.timesteps()):
            output, guidance = predict(x, t, k < self.num_guided)
            outputs.append(output)
            if guidance is not None:
                guidances.append(guidance)
            x = self.starts[k] * noise
            for weights, known in ((self.outputs, outputs), (self.guidances, guidances)):
                for j, tensor in enumerate(known):
                    x = x + weights[k, j] * tensor
        return x

    def content(self) -> dict[str, object]:
        """The coefficients as in ``bespoke_solver.json``."""

        def numbers(tensor: torch.Tensor) -> list[float]:
            return [round(value, 6) for value in tensor.tolist()]

        return {
            "timesteps": numbers(self.timesteps()),
            "starts": numbers(self.starts),
            "outputs": [numbers(row[: k + 1]) for k, row in enumerate(self.outputs)],
            "guidances": [numbers(row[: k + 1]) for k, row in enumerate(self.guidances)],
        }


def make_predict(
    pipeline: StableDiffusionPipeline, tokens: torch.Tensor, guidance_scale: float
) -> Predict:
    """Evaluate a base's UNet for prompts (N, T, C)."""
    nothing = encode_prompts(pipeline, [""]).tokens

    def predict(
        x: torch.Tensor, t: torch.Tensor, guided: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with native_bfloat16():
            if not guided:
                return pipeline.unet(x, t, tokens).sample.float(), None
            both = torch.cat([tokens, nothing.expand(len(x), -1, -1)])
            output = pipeline.unet(torch.cat([x, x]), t, both).sample.float()
        prompted, without = output.chunk(2)
        return without + guidance_scale * (prompted - without), prompted - without

    return predict


@torch.no_grad()
def psnr_to_paths(
    pipeline: StableDiffusionPipeline,
    tokens: torch.Tensor,
    paths: Paths,
    coefficients: Coefficients,
) -> float:
    """Mean PSNR (dB) of decoded images to the ends of ``paths``."""

    def pixels(latents: torch.Tensor) -> torch.Tensor:
        with native_bfloat16():
            return decode_latents(pipeline, latents).float().clamp(-1, 1)

    predict = make_predict(pipeline, tokens[paths.prompts], TEACHER.guidance_scale)
    generated = coefficients(paths.points[:, 0].float(), predict)
    error = (pixels(generated) - pixels(paths.points[:, -1].float())).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def fit(
    pipeline: StableDiffusionPipeline,
    tokens: torch.Tensor,
    paths: Paths,
    num_steps: int,
    num_guided: int,
    minutes: float,
    seed: int,
) -> tuple[dict[str, object], dict[str, object]]:
    """Fit for ``minutes`` of wall time; returns solver and record."""
    rng = np.random.default_rng(seed)
    # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
    pipeline.unet.set_attn_processor(AttnProcessor())
    coefficients = Coefficients(dict(pipeline.scheduler.config), num_steps, num_guided)
    held = Paths(paths.points[-HELD_OUT:], paths.prompts[-HELD_OUT:])
    before = psnr_to_paths(pipeline, tokens, held, coefficients)
    weights = [coefficients.starts, coefficients.outputs, coefficients.guidances]
    rates = list(_LEARNING_RATES.values())
    optimizer = torch.optim.Adam(
        [{"params": [coefficients.later]}, {"params": weights}], lr=rates[0], betas=(0.9, 0.95)
    )
    t0, step, done, losses = time.time(), 0, 0.0, []
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        warm = min(1, (step + 1) / 10) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warm
        pick = torch.from_numpy(rng.integers(len(paths.points) - HELD_OUT, size=BATCH))
        predict = make_predict(pipeline, tokens[paths.prompts[pick]], TEACHER.guidance_scale)
        generated = coefficients(paths.points[pick, 0].float(), predict)
        error = (generated - paths.points[pick, -1].float()).square().mean((1, 2, 3))
        loss = error.sqrt().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(coefficients.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"{step} {time.time() - t0:.0f}s loss {np.mean(losses[-50:]):.5f}", flush=True)
    return coefficients.content() | {"guidance_scale": TEACHER.guidance_scale}, {
        "steps": step,
        "batch": BATCH,
        "minutes": minutes,
        "seed": seed,
        "loss": float(np.mean(losses[-50:])),
        "paths": len(paths.points) - HELD_OUT,
        "psnr_to_paper_db": {
            START: round(before, 1),
            "fitted": round(psnr_to_paths(pipeline, tokens, held, coefficients), 1),
        },
    }


def main() -> None:
    """Generate with the preset, fit, write ``models/<name>/bespoke_solver.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the base, below models/")
    parser.add_argument("--num-steps", type=int, default=4)
    parser.add_argument(
        "--num-guided", type=int, default=2, help="the first steps, which are guided"
    )
    parser.add_argument(
        "--paths", type=int, default=660, help="images that the solver is fitted to"
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cache", type=Path, default=Path("build/paths"), help="folder of the generated paths"
    )
    args = parser.parse_args()
    base = resolve_base(args.name, MODELS)
    paths = kept_paths(args.cache, base, TEACHER, args.paths, MODELS, args.threads)
    torch.set_num_threads(args.threads)
    pipeline = load_pipeline(base)
    tokens = embed(pipeline, base)
    solver, record = fit(
        pipeline, tokens, paths, args.num_steps, args.num_guided, args.minutes, args.seed
    )
    write_bespoke_solver(MODELS / args.name, solver, record | {"threads": args.threads})
    print(json.dumps(record))


if __name__ == "__main__":
    main()
