"""Synthesis fills a folder with what the options ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cytosynth.generator.v1 import generator_pb2
from tests.support.servers.toy_services.server import Cyto, ToyServices

ROOT = Path(__file__).resolve().parents[5]


def test_synthesize_fills_a_folder(cyto: Cyto, tmp_path: Path) -> None:
    out_folder = tmp_path / "out"
    code, out, _ = cyto("synthesize", "blast=2", "mono=1", "--out", out_folder, "--json")
    assert code == 0
    assert json.loads(out)["num_images"] == 3
    assert (out_folder / "blast/000001.png").read_bytes() == b"blast:1"
    code, out, _ = cyto("synthesize", "blast=2", "mono=1", "--out", out_folder)
    assert "3 synthetic cells (3 were there)" in out


def test_synthesize_takes_the_classes_of_the_adapter(
    cyto: Cyto, toy: ToyServices, tmp_path: Path
) -> None:
    out_folder = tmp_path / "out"
    command = ("synthesize", "--per-class", 2, "--adapter", "adapters/a", "--out", out_folder)
    assert cyto(*command)[0] == 0
    counts = toy.generator.requests[0].class_counts
    assert [(entry.class_id, entry.num_images) for entry in counts] == [("blast", 2), ("mono", 2)]


def test_synthesize_sends_its_settings(cyto: Cyto, toy: ToyServices, tmp_path: Path) -> None:
    settings = ("--guidance", 3, "--guidance-start", 0.25, "--guidance-stop", 1)
    command = ("synthesize", "blast=1", "--out", tmp_path / "out", *settings)
    assert cyto(*command, "--priority", "bulk", "--decoder", "tiny")[0] == 0
    assert cyto("synthesize", "blast=1", "--out", tmp_path / "plain")[0] == 0
    request, plain = toy.generator.requests
    sampler = request.sampler
    guidance = (sampler.guidance_scale, sampler.guidance_start, sampler.guidance_stop)
    assert guidance == (3.0, 0.25, 1.0)
    assert (sampler.decoder, plain.sampler.decoder) == ("tiny", "")
    assert request.priority == generator_pb2.PRIORITY_BULK
    assert plain.priority == generator_pb2.PRIORITY_UNSPECIFIED
    assert not plain.sampler.HasField("guidance_start")
    assert not plain.sampler.HasField("guidance_stop")


@pytest.mark.parametrize("option", ["--guidance-start", "--guidance-stop"])
@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("-0.1", "greater than or equal to 0"),
        ("1.5", "less than or equal to 1"),
        ("late", "valid number"),
    ],
)
def test_a_share_of_the_steps_that_is_none_is_a_usage_error(
    cyto: Cyto, toy: ToyServices, tmp_path: Path, option: str, value: str, remedy: str
) -> None:
    code, _, err = cyto("synthesize", "blast=1", "--out", tmp_path / "out", option, value)
    assert code == 2
    line = " ".join(err.replace("│", " ").split())
    assert f"Invalid value for '{option}'" in line and remedy in line
    assert not toy.generator.requests


def test_an_unknown_priority_is_one_line(cyto: Cyto, toy: ToyServices, tmp_path: Path) -> None:
    command = ("synthesize", "blast=1", "--out", tmp_path / "out", "--priority", "urgent")
    code, out, err = cyto(*command)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last == "cytosynth: --priority: 'urgent' is unknown; interactive or bulk"
    assert not toy.generator.requests and not (tmp_path / "out").exists()


def test_capabilities_are_shown(cyto: Cyto) -> None:
    code, out, _ = cyto("capabilities")
    assert code == 0
    assert "toy" in out
    assert "at most 1000 images per request" in out


def test_another_request_into_the_same_folder_is_refused_in_the_words_of_the_options(
    cyto: Cyto, toy: ToyServices, tmp_path: Path
) -> None:
    command = ("synthesize", "--out", tmp_path / "out")
    assert cyto(*command, "blast=1", "--seed", 1)[0] == 0
    code, _, err = cyto(*command, "blast=1", "--seed", 2, "--sampler-steps", 3)
    assert code == 1
    told = "another synthesis: --sampler-steps was None, is 3, --seed was 1, is 2; choose another"
    assert told in err
    assert len(toy.generator.requests) == 1


def test_a_folder_whose_name_is_not_text_is_filled(toy: ToyServices, tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/caf\xe9"
    command = [sys.executable, "-m", "cytosynth.cli", "synthesize", "blast=1", "--out", out]
    for options in ([], ["--json"], [b"--adapter", b"adapters/\xe9"]):
        done = subprocess.run(
            [*command, "--address", toy.address, *options],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        assert done.returncode == (1 if b"--adapter" in options else 0), done.stderr
    assert (tmp_path / os.fsdecode(b"caf\xe9") / "blast/000000.png").is_file()
