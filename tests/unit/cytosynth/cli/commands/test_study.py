"""A study is asked for, and refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytosynth.cli import main
from cytosynth.stack import stack as local_stack
from tests.support.servers.toy_services.server import Cyto, ToyServices


def test_study_asks_for_one_job_and_shows_every_arm(
    toy: ToyServices, cyto: Cyto, cells: Path, tmp_path: Path
) -> None:
    asked = ["--shots", "2,1", "--per-class", "2,4", "--replicates", "3", "--architectures", "clip"]
    asked += ["--base", "toy", "--classifier-steps", "7", "--seed", "5", "--title", "T"]
    asked += ["--sampler-preset", "balanced", "--adapter-steps", "9", "--loss-weight", "0.5"]
    code, out, err = cyto("study", "--data", cells, "--out", tmp_path / "out", *asked)
    assert code == 0
    assert "note: no base of this package knows blast, mono" in err and "note: toy notice" in err
    [request] = toy.trainer.requests
    assert (request.dataset, request.title) == ("datasets/d1", "T")
    settings = request.settings
    assert (list(settings.models), list(settings.num_per_class)) == (["clip"], [2, 4])
    assert dict(settings.class_shots) == {"blast": 2, "mono": 1}
    assert (settings.num_draws, settings.num_steps, settings.seed) == (3, 7, 5)
    assert (settings.adapter_steps, settings.loss_weight) == (9, 0.5)
    assert (settings.base, settings.sampler_preset) == ("toy", "balanced")
    assert not settings.HasField("max_test_per_class")
    assert "real_plus_synthetic_4" in out and "+0.050 [+0.010, +0.090]" in out
    assert "Means of 3 rep" not in out and "Means of 2 replicates" in out, "as the report says"
    assert (tmp_path / "out/report.html").is_file()


def test_study_with_wrong_amounts_is_refused_before_anything_is_sent(
    toy: ToyServices, cyto: Cyto, cells: Path, tmp_path: Path
) -> None:
    code, _, err = cyto("study", "--data", cells, "--out", tmp_path / "o", "--per-class", "many")
    assert code == 2 and "--per-class" in err
    assert not toy.trainer.requests and not toy.trainer.uploads


def test_study_of_a_bad_folder_starts_no_services(
    monkeypatch: pytest.MonkeyPatch, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(*_: object, **__: object) -> None:
        raise AssertionError("services were started")

    monkeypatch.setattr(local_stack, "up", up)
    (cells / "labels.csv").write_text("file,class,Patient\nblast/0.png,blast,p1\n")
    command = ["study", "--data", str(cells), "--out", str(tmp_path / "o")]
    assert main([*command, "--address", "127.0.0.1:1"]) == 1
    assert "'Patient'; rename it to patient_id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (["--arms", "real_only", "--transfer-clip-base", "c"], "--transfer-clip-base"),
        (["--arms", "real_only,zero_shot", "--sampler-preset", "fast"], "--sampler-preset"),
        (["--arms", "real_only", "--adapter-steps", "3"], "--adapter-steps"),
    ],
)
def test_study_refuses_options_that_its_arms_do_not_use(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path, options: list[str], option: str
) -> None:
    code, _, err = cyto("study", "--data", cells, "--out", tmp_path / "o", *options)
    assert code == 2
    told = " ".join(err.replace("│", " ").split())
    assert option in told and "has no effect" in told
    assert not toy.trainer.uploads


def test_study_of_other_options_into_the_same_folder_is_refused(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path
) -> None:
    command = ("study", "--data", cells, "--out", tmp_path / "out")
    assert cyto(*command, "--replicates", 2, "--json")[0] == 0
    code, _, err = cyto(*command, "--draws", 3)
    assert code == 1
    assert "holds another run: --replicates was 2, is 3; choose another --out" in err
    assert len(toy.trainer.requests) == 1
