"""Phantom cells in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytosynth.cli import main


def test_phantoms_write_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phantoms"
    command = [
        "phantoms",
        "--out",
        str(out),
        "--per-class",
        "2",
        "--classes",
        "monocyte,myeloblast",
    ]
    assert main(command) == 0
    assert len(list(out.glob("*/*.png"))) == 4
    assert "4 phantom cells of 2 classes" in capsys.readouterr().out
    assert main(command) == 2  # Not into a folder that holds something.
