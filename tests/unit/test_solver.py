"""Solvers as matrices: diffusers' own steps, for every scheduler and number of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import FailedPrecondition
from services.generator.presets import SCHEDULERS
from services.generator.sampler import starting_noise
from services.generator.solver import STATE_SIZE, build_scheduler, build_solver
from tests import fakes

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
    assert solver.steps.shape == (num_steps, STATE_SIZE, STATE_SIZE + 1)
    noise = starting_noise(7, (1, 2, 8, 8))
    sample = noise * scheduler.init_noise_sigma
    state = torch.zeros(STATE_SIZE, *noise.shape)
    state[0] = noise * solver.noise_scale
    for i, timestep in enumerate(scheduler.timesteps):
        assert solver.timesteps[i] == float(timestep)
        output = toy_model(sample, float(timestep))
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        matrix = torch.from_numpy(solver.steps[i])
        own = toy_model(state[0], float(solver.timesteps[i]))
        before = torch.cat([state, own[None]])
        state = torch.einsum("ij,jbchw->ibchw", matrix, before)
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
    for matrix, timestep in zip(solver.steps, solver.timesteps, strict=True):
        alpha = alphas[int(timestep)].sqrt()
        sigma = (1 - alpha**2).sqrt()
        velocity = alpha * (state[0] - alpha * answer) / sigma - sigma * answer
        before = torch.cat([state, velocity[None]])
        state = torch.einsum("ij,jchw->ichw", torch.from_numpy(matrix), before)
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
