"""Bespoke solvers: valid files are read, invalid ones refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import FailedPrecondition
from services.common.models.diffusion_bases import resolve_base
from tests.support import fakes

SOLVER = fakes.bespoke_solver(4, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base called "tiny"."""
    return fakes.write_tiny_base(tmp_path, "tiny")


@pytest.mark.parametrize(("num_steps", "num_guided"), [(1, 0), (1, 1), (4, 2), (4, 4), (6, 1)])
def test_solver_of_a_base_has_a_revision_of_its_own(
    folder: Path, num_steps: int, num_guided: int
) -> None:
    before = resolve_base("tiny", folder.parent)
    assert before.bespoke_solver is None
    solver = fakes.bespoke_solver(num_steps, num_guided)
    path = fakes.write_bespoke_solver(folder, solver)
    base = resolve_base("tiny", folder.parent)
    assert base.revision == before.revision
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert base.bespoke_solver == replace(solver, revision=digest)
    assert (solver.num_steps, solver.num_guided_steps) == (num_steps, num_guided)


@pytest.mark.parametrize(
    "change",
    [
        {"timesteps": []},
        {"timesteps": None},
        {"timesteps": [999.0, 700.0, 300.0]},
        {"timesteps": [999.0, 700.0, 300.0, -1.0]},
        {"timesteps": [999.0, 700.0, 300.0, "1"]},
        {"guidance_scale": True},
        {"guidance_scale": None},
        {"starts": [1.0]},
        {"starts": [1.0, 0.5, 0.1, float("nan")]},
        {"outputs": [[1.0], [1.0], [1.0], [1.0]]},
        {"guidances": [[1.0], [1.0], [1.0], [1.0, 1.0]]},
        {"guidances": [[1.0]]},
        {"guidances": [[1.0] * (k + 1) for k in range(5)]},
        {"outputs": "none"},
    ],
)
def test_wrong_numbers_are_refused(folder: Path, change: dict[str, Any]) -> None:
    path = fakes.write_bespoke_solver(folder, SOLVER)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FailedPrecondition, match=r"tiny.*bespoke_solver\.json holds no solver"):
        resolve_base("tiny", folder.parent)


def test_more_than_an_image_in_progress_keeps_is_refused(folder: Path) -> None:
    fakes.write_bespoke_solver(folder, fakes.bespoke_solver(5, 3))
    with pytest.raises(FailedPrecondition, match="holds no solver"):
        resolve_base("tiny", folder.parent)


def test_unreadable_file_and_other_base_are_refused(folder: Path) -> None:
    path = fakes.write_bespoke_solver(folder, SOLVER)
    content = json.loads(path.read_text())
    for text, problem in (
        ("{", "not readable JSON"),
        ("[]", "another revision"),
        (json.dumps(content | {"base_revision": "0" * 64}), "another revision"),
    ):
        path.write_text(text)
        with pytest.raises(FailedPrecondition, match=f"{problem}.*remove the file"):
            resolve_base("tiny", folder.parent)
