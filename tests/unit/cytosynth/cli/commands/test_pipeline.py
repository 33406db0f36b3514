"""A run ends with a table and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cytosynth.cli import main
from cytosynth.stack import stack as local_stack
from tests.support.servers.toy_services.server import Cyto, ToyServices


def test_run_ends_with_the_table_and_the_paths(cyto: Cyto, cells: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "out"
    command = ("run", "--data", cells, "--out", out_folder, "--shots", 1, "--per-class", 5)
    code, out, err = cyto(*command)
    assert code == 0
    assert "0.500 [0.400, 0.900]" in out
    assert "+0.100 [-0.050, +0.250]" in out
    assert out.splitlines()[-2:] == [
        str(out_folder / name) for name in ("report.html", "report.json")
    ]
    assert "fit resnet18 real_plus_synthetic" in err
    seconds = json.loads((out_folder / "report.json").read_text())["seconds"]
    assert set(seconds) >= {"upload", "fit_adapter", "fit_clip_real_only"}


def test_other_options_into_the_same_folder_are_refused_before_services_start(
    cyto: Cyto,
    toy: ToyServices,
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["run", "--data", str(cells), "--out", str(tmp_path / "out")]
    assert cyto(*command, "--shots", 1)[0] == 0
    monkeypatch.setattr(local_stack, "up", lambda *_, **__: pytest.fail("services were started"))
    for options, told in (
        (["--shots", "2"], "--shots was 1, is 2"),
        (["--shots", "1", "--adapter-steps", "3"], "--adapter-steps was 0, is 3"),
        (["--shots", "1", "--per-class", "7"], "--per-class was 200, is 7"),
    ):
        assert main([*command, *options]) == 1
        err = capsys.readouterr().err
        assert f"holds another run: {told}; choose another --out" in err


def test_adapter_steps_and_sampler_preset_are_sent(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path
) -> None:
    command = ("run", "--data", cells, "--out", tmp_path / "out", "--shots", 1)
    options = ("--adapter-steps", 9, "--classifier-steps", 5, "--sampler-preset", "draft")
    assert cyto(*command, *options)[0] == 0
    adapter, *fits, _ = toy.trainer.requests
    assert adapter.settings.num_steps == 9
    assert {fit.settings.num_steps for fit in fits} == {5}
    assert fits[1].synthetic.sampler.preset == "draft"
