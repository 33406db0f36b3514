"""A run ends with a table and a report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.servers.toy_services.server import Cyto


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
