"""Bespoke solvers: few sampling steps whose coefficients were fitted to one base.

A solver of a few steps is a handful of numbers: its timesteps, and how it mixes the starting noise
with what the UNet has said so far.  Fitted by gradient descent to end where many steps end, they
bring few steps much nearer to it than formulas do (Shaul et al., "Bespoke Non-Stationary Solvers",
arXiv 2403.01329); and being so few, they suit adapters that they were not fitted with.  Guided
steps come first; their guidance (the output with the prompt less that without) goes on acting in
later steps, which then cost one evaluation.  After step *k* the sample is

    starts[k] * noise + sum over j <= k of outputs[k][j] * output_j + guidances[k][j] * guidance_j

where output_j is guided by ``guidance_scale`` in guided steps.  A base keeps its own in
``bespoke_solver.json`` (``pretraining/fit_solver.py`` writes it).
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
    """Coefficients fitted to one base, K steps of which the first G are guided.

    It is no part of the base's own revision: what was trained on the base still fits.

    Attributes:
        revision: SHA-256 of its file.
        guidance_scale: Of the guided steps.
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
        """K."""
        return len(self.timesteps)

    @property
    def num_guided_steps(self) -> int:
        """G."""
        return len(self.guidances[-1])


def read_bespoke_solver(base_folder: Path, base_revision: str) -> BespokeSolver | None:
    """The solver that lies in a base's folder, if any.

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
        raise ValueError("row k of outputs has not k + 1 weights")
    if [len(row) for row in solver.guidances] != [min(k + 1, num_guided) for k in range(num_steps)]:
        raise ValueError("row k of guidances has not min(k + 1, G) weights")
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
    remedy = "take the file away; pretraining/fit_solver.py may then fit it again"
    return FailedPrecondition(base_folder.name, f"its {BESPOKE_SOLVER_FILE} {problem}", remedy)
