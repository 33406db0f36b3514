"""Test that a solver fitted to a real base beats UniPC.

The bespoke solver reproduces its teacher's images better than UniPC does.
"""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pretraining import export, fit_solver, guided_paths
from pretraining.guided_paths import Teacher
from services.common.models.bespoke_solvers import BESPOKE_SOLVER_FILE
from services.common.models.diffusion_bases import load_pipeline, resolve_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def copy_of_cyto_small(folder):
    """As the base "base" in ``folder``, without its solver."""
    copy = Path(shutil.copytree("models/cyto-small", folder / "base"))
    (copy / BESPOKE_SOLVER_FILE).unlink(missing_ok=True)
    return copy


def test_a_bespoke_solver_is_fitted_to_what_its_base_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_solver, "HELD_OUT", 4)
    monkeypatch.setattr(fit_solver, "BATCH", 8)
    clock = itertools.count()  # a second a step, so that their number depends on no machine
    monkeypatch.setattr(fit_solver, "time", SimpleNamespace(time=lambda: next(clock)))
    folder = copy_of_cyto_small(tmp_path)
    base = resolve_base("base", tmp_path)
    teacher = Teacher("unipc", 8, 8, 2.0)
    monkeypatch.setattr(fit_solver, "TEACHER", teacher)
    paths = guided_paths.kept_paths(tmp_path / "cache", base, teacher, 20, tmp_path, 1)
    again = guided_paths.kept_paths(tmp_path / "cache", base, teacher, 20, tmp_path, 1)
    assert torch.equal(paths.points, again.points) and paths.points.shape == (20, 2, 48, 8, 8)
    pipeline = load_pipeline(base)
    tokens = guided_paths.embed(pipeline, base)
    solver, record = fit_solver.fit(pipeline, tokens, paths, 3, 2, 0.7, 0)
    assert record["steps"] == 41
    psnr = record["psnr_to_paper_db"]
    assert psnr["fitted"] > psnr["unipc"] + 0.5
    export.write_bespoke_solver(folder, solver, record)
    fitted = resolve_base("base", tmp_path)
    assert fitted.revision == base.revision
    assert (fitted.bespoke_solver.num_steps, fitted.bespoke_solver.num_guided_steps) == (3, 2)
    assert "fit_solver --name cyto-small" in (folder / "README.md").read_text()
