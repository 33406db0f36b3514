"""ODE solvers as small matrices, one step of its own per image.

The deterministic solvers of diffusion models are linear in the sample and in the model's
outputs.  So a step is a matrix: an image's *state* is ``STATE_SIZE`` latents (the sample, and
what its solver keeps of earlier steps), and

    state' = step[:, :STATE_SIZE] @ state + step[:, STATE_SIZE] * output
                                          + step[:, STATE_SIZE + 1] * guidance

``output`` is the model's, guided in guided steps; ``guidance`` is the output with the prompt less
that without, 0 in steps without guidance.  The matrices are read off diffusers' own schedulers by
handing them unit vectors; no solver is written here a second time.  Only a base's bespoke solver
uses ``guidance``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from services.common.errors import FailedPrecondition
from services.common.models.bespoke_solvers import MAX_NUM_KEPT, BespokeSolver

COSINE_LAMBDA_MIN = -5.1
STATE_SIZE = 2 + MAX_NUM_KEPT
NUM_COLUMNS = STATE_SIZE + 2
_SAMPLE, _CORRECTED, _OLDER, _NEWER = range(4)
_START, _KEPT = 1, 2  # of a bespoke solver
_OUTPUT, _GUIDANCE = STATE_SIZE, STATE_SIZE + 1


@dataclass(frozen=True)
class Solver:
    """One solver at one number of steps.

    Attributes:
        timesteps: Inputs of the UNet, float32 (K,), from noise to image.
        steps: The matrix of each step, float32 (K, STATE_SIZE, NUM_COLUMNS).
        noise_scale: Standard deviation of the starting noise.
    """

    timesteps: np.ndarray
    steps: np.ndarray
    noise_scale: float

    def __len__(self) -> int:
        return len(self.timesteps)


def build_scheduler(name: str, base_config: dict[str, Any]) -> SchedulerMixin:
    """The ODE solver called ``name`` on the noise schedule of a base.

    Every solver is deterministic: nothing but the starting noise is random.

    Args:
        name: "dpmpp_2m" (Lu et al. 2022), "ddim" (Song et al. 2021) or "unipc" (Zhao et al. 2023).
        base_config: The base's own scheduler configuration.
    """
    options: dict[str, Any] = {}
    cosine = base_config.get("beta_schedule") == "squaredcos_cap_v2"
    if cosine:
        options["timestep_spacing"] = "trailing"
    if name == "dpmpp_2m":
        # On a cosine schedule the first log-SNRs diverge; diffusers advises to clip them.
        options |= {"lambda_min_clipped": COSINE_LAMBDA_MIN} if cosine else {}
        options |= {"algorithm_type": "dpmsolver++", "solver_order": 2}
        options |= {"solver_type": "midpoint", "final_sigmas_type": "zero"}
        return DPMSolverMultistepScheduler.from_config(base_config, **options)
    if name == "unipc":
        options |= {"solver_order": 2, "solver_type": "bh2", "final_sigmas_type": "zero"}
        return UniPCMultistepScheduler.from_config(base_config, **options)
    if name == "ddim":
        return DDIMScheduler.from_config(base_config, clip_sample=False, **options)
    raise ValueError(f"unknown scheduler {name!r}")


def build_solver(name: str, base_config: dict[str, Any], num_steps: int) -> Solver:
    """The matrices of ``num_steps`` steps of the scheduler called ``name``.

    Raises:
        FailedPrecondition: If the base's schedule has no such number of steps, or makes the
            solver nonlinear (thresholding).
    """
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in base_config.items()}
    return _build_solver(name, tuple(sorted(plain.items(), key=lambda item: item[0])), num_steps)


@lru_cache(maxsize=256)
def _build_solver(name: str, config: tuple[tuple[str, Any], ...], num_steps: int) -> Solver:
    scheduler = build_scheduler(name, dict(config))
    if scheduler.config.get("thresholding"):
        problem = "its scheduler thresholds samples, which no linear solver does"
        raise FailedPrecondition("base", problem, "set thresholding to false in its scheduler")
    try:
        solver = _read_off(scheduler, name, num_steps)
    except (AssertionError, IndexError, ValueError) as error:  # a schedule past its ends
        raise _impossible(name, num_steps) from error
    if not np.isfinite(solver.steps).all():
        raise _impossible(name, num_steps)
    return solver


def _read_off(scheduler: Any, name: str, num_steps: int) -> Solver:
    scheduler.set_timesteps(num_steps)
    unit = torch.eye(NUM_COLUMNS)[:, None, :, None, None]  # "images" of as many channels
    steps: list[np.ndarray] = []
    for timestep in scheduler.timesteps:
        if name != "ddim":
            scheduler.model_outputs = [unit[_OLDER], unit[_NEWER]]
        if name == "unipc":
            scheduler.last_sample = unit[_CORRECTED] if steps else None
        sample = scheduler.step(unit[_OUTPUT], timestep, unit[_SAMPLE], return_dict=False)[0]
        after = [sample, getattr(scheduler, "last_sample", None)]
        after += getattr(scheduler, "model_outputs", None) or [None, None]
        after += [None] * (STATE_SIZE - len(after))
        rows = [unit[0] * 0 if row is None else row for row in after]
        steps.append(torch.stack(rows)[:, 0, :, 0, 0].numpy().astype(np.float32))
    timesteps = scheduler.timesteps.numpy().astype(np.float32)
    return Solver(timesteps, np.stack(steps), float(scheduler.init_noise_sigma))


def bespoke_steps(coefficients: BespokeSolver) -> Solver:
    """A base's own solver.

    A state is the sample, the starting noise, and after step k output k and, if that step was
    guided, its guidance.
    """
    num_steps, num_guided = coefficients.num_steps, coefficients.num_guided_steps
    steps = np.zeros((num_steps, STATE_SIZE, NUM_COLUMNS), np.float32)
    kept_outputs = [_KEPT + j for j in range(num_steps - 1)]
    kept_guidances = [_KEPT + num_steps - 1 + j for j in range(min(num_guided, num_steps - 1))]
    for k, step in enumerate(steps):
        noise = _SAMPLE if k == 0 else _START
        step[_START, noise] = 1
        step[_SAMPLE, noise] = coefficients.starts[k]
        for kept, new, weights in (
            (kept_outputs, _OUTPUT, coefficients.outputs[k]),
            (kept_guidances, _GUIDANCE, coefficients.guidances[k]),
        ):
            for j, weight in enumerate(weights):
                step[_SAMPLE, new if j == k else kept[j]] = weight
            for j, place in enumerate(kept):
                step[place, new if j == k else place] = 1
    return Solver(np.array(coefficients.timesteps, np.float32), steps, noise_scale=1.0)


def _impossible(name: str, num_steps: int) -> FailedPrecondition:
    problem = f"cannot take {num_steps} steps on this base's noise schedule"
    return FailedPrecondition(f"scheduler {name}", problem, "send fewer num_steps")
