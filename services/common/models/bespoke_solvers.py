"""Bespoke solvers: few sampling steps whose coefficients were fitted to one base.

A solver of a few steps is a handful of numbers: timesteps, and weights of the starting noise and of
the UNet's outputs so far. Gradient descent fits the numbers to end where many steps end, which
formulas do less well (Shaul et al., "Bespoke Non-Stationary Solvers", arXiv 2403.01329). So few
numbers also suit adapters that they were not fitted with. Guided steps come first. Guidance (the
output with the prompt less that without) acts in later steps too, which then cost one evaluation.
After step *k* the sample is

    starts[k] * noise + sum over j <= k of outputs[k][j] * output_j + guidances[k][j] * guidance_j

where output_j is guided by ``guidance_scale`` in guided steps. The solver of a base is the file
``bespoke_solver.json`` in its folder, written by ``pretraining/fit_solver.py``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import FailedPrecondition
from services.common.store.file_digests import file_digest

BESPOKE_SOLVER_FILE = "bespoke_solver.json"
MAX_NUM_STEPS = 6
MAX_NUM_KEPT = 6
"""Outputs and guidances of earlier steps that an image in progress keeps."""


@dataclass(frozen=True)
class BespokeSolver:
    """Coefficients of K fitted steps, the first G of them guided.

    The base's revision leaves its solver out: what was trained on the base still fits.

    Attributes:
        revision: SHA-256 of the file.
        guidance_scale: Scale in the guided steps.
        timesteps: K, from noise to image.
        starts: K weights of the starting noise.
        outputs: K rows; row k has k + 1 weights of the outputs so far.
        guidances: K rows; row k has min(k + 1, G) weights of the guidances so far.
    """

    revision: str
    guidance_scale: float
    timesteps: tuple[float, ...]
    starts: tuple[float, ...]
    outputs: tuple[tuple[float, ...], ...]
    guidances: tuple[tuple[float, ...], ...]

    @property
    def num_steps(self) -> int:
        """Number of steps, K."""
        return len(self.timesteps)

    @property
    def num_guided_steps(self) -> int:
        """Number of guided steps, G."""
        return len(self.guidances[-1])


def read_bespoke_solver(base_folder: Path, base_revision: str) -> BespokeSolver | None:
    """Reads the solver in a base's folder, if there is one.

    Raises:
        FailedPrecondition: If it is not readable, incomplete or fitted to another revision.
    """
    path = base_folder / BESPOKE_SOLVER_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _wrong(base_folder, "is not readable JSON") from error
    if not isinstance(content, dict) or content.get("base_revision") != base_revision:
        raise _wrong(base_folder, "was fitted to another revision of the base")
    try:
        solver = BespokeSolver(
            file_digest(path),
            _number(content["guidance_scale"]),
            _numbers(content["timesteps"]),
            _numbers(content["starts"]),
            tuple(_numbers(row) for row in content["outputs"]),
            tuple(_numbers(row) for row in content["guidances"]),
        )
        _check_shape(solver)
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(base_folder, "holds no solver (keys, lengths or numbers are wrong)") from error
    return solver


def _check_shape(solver: BespokeSolver) -> None:
    num_steps = solver.num_steps
    if not 1 <= num_steps <= MAX_NUM_STEPS or len(solver.guidances) != num_steps:
        raise ValueError("wrong number of steps")
    num_guided = solver.num_guided_steps
    if num_guided > num_steps or len(solver.starts) != num_steps:
        raise ValueError("wrong number of weights")
    if [len(row) for row in solver.outputs] != list(range(1, num_steps + 1)):
        raise ValueError("row k of outputs does not have k + 1 weights")
    if [len(row) for row in solver.guidances] != [min(k + 1, num_guided) for k in range(num_steps)]:
        raise ValueError("row k of guidances does not have min(k + 1, G) weights")
    if num_steps - 1 + min(num_guided, num_steps - 1) > MAX_NUM_KEPT:
        raise ValueError("too many guided steps")
    if any(t < 0 for t in solver.timesteps):
        raise ValueError("negative timestep")


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise TypeError("not a list")
    return tuple(_number(value) for value in values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def _wrong(base_folder: Path, problem: str) -> FailedPrecondition:
    remedy = "remove the file, or write it again with pretraining/fit_solver.py"
    return FailedPrecondition(base_folder.name, f"its {BESPOKE_SOLVER_FILE} {problem}", remedy)
