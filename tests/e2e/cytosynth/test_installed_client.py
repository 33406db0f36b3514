"""A client from the wheel trains and classifies on a running stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cytosynth.phantoms import DEMO_HOSPITAL, write_image_folder
from cytosynth.stack import stack as local_stack
from tests.support.wheel import build_wheel, install


def test_a_client_from_the_wheel_classifies_on_a_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = install(build_wheel(tmp_path / "built"), tmp_path / "environment")
    cells = tmp_path / "cells"
    write_image_folder(cells, DEMO_HOSPITAL, {"lymphocyte": 8, "monocyte": 8}, seed=3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    info = local_stack.up(0, state_dir=tmp_path / "state")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def cytosynth(*arguments: object) -> Any:
        command = [programs / "cytosynth", *map(str, arguments), "--address", info.address]
        done = subprocess.run(
            [*command, "--json"], cwd=elsewhere, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    try:
        dataset = cytosynth("upload", cells, "--shots", 4)
        classifier = cytosynth("fit-classifier", dataset["name"], "--classifier-steps", 2)
        image = next(cells.glob("monocyte/*.png"))
        answer = cytosynth("classify", image, "--model", classifier["result"])
    finally:
        local_stack.down(tmp_path / "state")
    assert "monocyte" in json.dumps(answer)
