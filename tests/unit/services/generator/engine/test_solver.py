"""Solvers as matrices: diffusers' steps for every scheduler and number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import FailedPrecondition
from services.generator.engine.denoiser import starting_noise
from services.generator.engine.solver import (
    NUM_COLUMNS,
    STATE_SIZE,
    Solver,
    bespoke_steps,
    build_scheduler,
    build_solver,
)
from services.generator.presets import SCHEDULERS
from tests.support import fakes

COSINE = dict(fakes.tiny_scheduler().config)
STABLE_DIFFUSION: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "clip_sample": False,
    "trained_betas": None,
}
CONFIGS = {"cosine": COSINE, "stable-diffusion": STABLE_DIFFUSION}


def toy_model(sample: torch.Tensor, timestep: float) -> torch.Tensor:
    """Nonlinear in the sample and different at every step."""
    return torch.tanh(1.3 * sample + timestep / 700) + 0.1 * torch.cos(5 * sample)


def advance(
    solver: Solver, step: int, state: torch.Tensor, output: torch.Tensor, guidance: float = 0.0
) -> torch.Tensor:
    """The state (STATE_SIZE, ...) after a step."""
    before = torch.cat([state, output[None], torch.full_like(output, guidance)[None]])
    return torch.einsum("ij,j...->i...", torch.from_numpy(solver.steps[step]), before)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 20, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("config", CONFIGS)
def test_matrices_step_as_the_scheduler_of_diffusers_does(
    config: str, name: str, num_steps: int
) -> None:
    solver = build_solver(name, CONFIGS[config], num_steps)
    scheduler = build_scheduler(name, CONFIGS[config])
    scheduler.set_timesteps(num_steps)
    assert len(solver) == num_steps == len(scheduler.timesteps)
    assert solver.steps.shape == (num_steps, STATE_SIZE, NUM_COLUMNS)
    noise = starting_noise(7, (1, 2, 8, 8))
    sample = noise * scheduler.init_noise_sigma
    state = torch.zeros(STATE_SIZE, *noise.shape)
    state[0] = noise * solver.noise_scale
    for i, timestep in enumerate(scheduler.timesteps):
        assert solver.timesteps[i] == float(timestep)
        output = toy_model(sample, float(timestep))
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        own = toy_model(state[0], float(solver.timesteps[i]))
        state = advance(solver, i, state, own)
        scale = float(sample.abs().max())
        assert float((state[0] - sample).abs().max()) <= 1e-5 * scale, f"step {i}"


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 2, 20, 200])
def test_a_model_that_knows_the_answer_is_led_to_it(name: str, num_steps: int) -> None:
    solver = build_solver(name, COSINE, num_steps)
    alphas = build_scheduler(name, COSINE).alphas_cumprod
    answer = torch.full((2, 2, 2), 0.5)
    state = torch.zeros(STATE_SIZE, 2, 2, 2)
    state[0] = starting_noise(3, (2, 2, 2)) * solver.noise_scale
    for i, timestep in enumerate(solver.timesteps):
        alpha = alphas[int(timestep)].sqrt()
        sigma = (1 - alpha**2).sqrt()
        velocity = alpha * (state[0] - alpha * answer) / sigma - sigma * answer
        state = advance(solver, i, state, velocity)
    assert (state[0] - answer).abs().max() < 0.05


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("config", CONFIGS)
def test_more_steps_than_the_schedule_has_are_refused(config: str, name: str) -> None:
    with pytest.raises(FailedPrecondition, match="fewer num_steps"):
        build_solver(name, CONFIGS[config], 1001)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_that_begins_past_its_end_is_refused(name: str) -> None:
    # 1000 "leading" steps with an offset of 1 would begin at timestep 1000 of 0 to 999.
    with pytest.raises(FailedPrecondition, match=f"{name}: cannot take 1000 steps"):
        build_solver(name, STABLE_DIFFUSION, 1000)


def test_thresholding_is_refused_as_it_is_not_linear() -> None:
    config = STABLE_DIFFUSION | {"thresholding": True}
    with pytest.raises(FailedPrecondition, match="thresholding"):
        build_solver("dpmpp_2m", config, 8)


def test_lists_in_a_configuration_are_taken_as_they_are() -> None:
    betas = np.linspace(1e-4, 0.02, 1000).tolist()
    config = STABLE_DIFFUSION | {"trained_betas": betas}
    solver = build_solver("ddim", config, 4)
    assert not np.array_equal(solver.steps, build_solver("ddim", STABLE_DIFFUSION, 4).steps)


def test_unknown_scheduler_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="euler"):
        build_scheduler("euler", COSINE)


@pytest.mark.parametrize(
    ("num_steps", "num_guided"), [(1, 0), (1, 1), (4, 2), (4, 3), (5, 2), (6, 1)]
)
def test_bespoke_steps_mix_noise_outputs_and_guidances(num_steps: int, num_guided: int) -> None:
    spec = fakes.bespoke_solver(num_steps, num_guided, seed=3)
    solver = bespoke_steps(spec)
    assert solver.timesteps.tolist() == pytest.approx(spec.timesteps)
    rng = np.random.default_rng(0)
    noise, *outputs = torch.from_numpy(rng.standard_normal((1 + num_steps, 5), np.float32))
    guidances = rng.standard_normal(num_guided).astype(np.float32)
    state = torch.full((STATE_SIZE, 5), 7.0)  # of an image that was here before
    state[0] = noise * solver.noise_scale
    for k in range(num_steps):
        state = advance(solver, k, state, outputs[k], guidances[k] if k < num_guided else 0.0)
        expected = spec.starts[k] * noise
        for weight, output in zip(spec.outputs[k], outputs, strict=False):
            expected = expected + weight * output
        for weight, guidance in zip(spec.guidances[k], guidances, strict=False):
            expected = expected + weight * guidance
        torch.testing.assert_close(state[0], expected, msg=f"step {k}")
