"""The GPU benchmark from end to end, tiny and on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import run as gpu
from benchmarks.gpu.workload import TINY
from services.generator.presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_tiny_run_measures_every_section(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--out", str(tmp_path), "--minutes", "4"]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    sections = report["sections"]
    rates = [f"eager.{preset}.{n}" for preset in PRESETS for n in ("one", "ten")]
    others = ["build", "diffusers", "eager.start", "eager.exactness", "eager.first_image"]
    assert set(sections) == {*rates, *others, "eager.step"}
    assert all(sections[name]["images_per_second"] > 0 for name in [*rates, "diffusers"])
    assert sections["eager.exactness"]["bit_identical"]
    assert sections["eager.first_image"]["load_lasted"]
    assert report["targets"]["fast"]["measured"] == sections["eager.fast.one"]["images_per_second"]
    step = sections["eager.step"]
    assert step["rows"] == TINY.num_slots
    assert {"convolution", "matrix products", "attention"} <= set(step["kernel_ms"])
    assert step["share_of_peak"] is None  # a share of an H100's peak is not for CPUs
    assert "aten::" in (tmp_path / "gpu-profile.txt").read_text()
