"""Reports are made, downloaded again and listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cytosynth.cli import main
from tests.support.servers.toy_services.server import Cyto


def test_a_report_is_made_and_listed(cyto: Cyto, tmp_path: Path) -> None:
    arm = "clip:real_only:classifiers/c1"
    command = ("report", "--dataset", "datasets/d1", "--arm", arm, "--out", tmp_path / "report")
    code, out, _ = cyto(*command)
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == ["report.html", "report.json"]
    code, out, _ = cyto("reports")
    assert code == 0 and "reports/r1" in out and "Ward 3" in out
    assert json.loads(cyto("reports", "--json")[1])[0]["kind"] == "report"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["reports/r1", "--title", "T"], "--title"),
        (["reports/r1", "--arm", "a:b:classifiers/c"], "--arm"),
        (["--dataset", "datasets/d"], "at least one classifier"),
        (["--dataset", "datasets/d", "--arm", "clip"], "is not MODEL:ARM:classifiers/…"),
        ([], "name a report to download"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--out", str(tmp_path), *options]) == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", " ").split())
