"""A folder of synthetic cells survives interruption and mixes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cytosynth.client import (
    Client,
    CytosynthError,
    SamplerSettings,
    SynthesisSettings,
)
from tests.support.servers.toy_services.generator import MANIFEST, MANIFEST_DIGEST, Break
from tests.support.servers.toy_services.server import ToyServices

ROOT = Path(__file__).resolve().parents[4]
COUNTS = {"blast": 3, "mono": 2}


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_a_folder_gets_imagefolder_layout_and_metadata(client: Client, tmp_path: Path) -> None:
    done = client.synthesize_to_folder(tmp_path / "out", COUNTS, SynthesisSettings(seed=3))
    assert (done.num_images, done.num_resumed, done.manifest_digest) == (5, 0, MANIFEST_DIGEST)
    assert (tmp_path / "out/mono/000004.png").read_bytes() == b"mono:4"
    lines = _lines(tmp_path / "out")
    assert lines[4]["file_name"] == "mono/000004.png"
    assert (lines[4]["class"], lines[4]["index"], lines[4]["image_seed"]) == ("mono", 4, 1004)
    body = json.loads((tmp_path / "out/synthesis.json").read_text())
    assert body["manifest"] == MANIFEST


def test_an_interrupted_folder_is_completed(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.synthesize_to_folder(out, COUNTS, on_progress=stop)
    with (out / "metadata.jsonl").open("a") as table:
        table.write('{"file_name": "blast/0000')  # A line that a kill cut off.
    (out / "blast/.partial-x").write_bytes(b"half")
    done = client.synthesize_to_folder(out, COUNTS)
    assert (done.num_images, done.num_resumed) == (5, 2)
    assert toy.generator.requests[-1].first_index == 2
    assert [line["index"] for line in _lines(out)] == [0, 1, 2, 3, 4]
    assert not list(out.rglob(".partial-*"))
    assert client.synthesize_to_folder(out, COUNTS).num_resumed == 5
    assert len(toy.generator.requests) == 2  # The third call had nothing to ask for.


def test_a_damaged_image_is_synthesized_again(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    client.synthesize_to_folder(tmp_path / "out", COUNTS)
    (tmp_path / "out/blast/000001.png").write_bytes(b"")
    assert client.synthesize_to_folder(tmp_path / "out", COUNTS).num_resumed == 1
    assert (tmp_path / "out/blast/000001.png").read_bytes() == b"blast:1"
    assert len(_lines(tmp_path / "out")) == 5


def test_a_folder_is_completed_at_another_priority_and_from_older_requests(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client.synthesize_to_folder(out, COUNTS, SynthesisSettings(seed=1))
    kept = json.loads((out / "synthesis.json").read_text())
    kept["request"] = {"class_counts": [*COUNTS.items()], "seed": 1, "max_failures": 3}
    (out / "synthesis.json").write_text(json.dumps(kept))  # as the last release wrote it
    (out / "mono/000003.png").unlink()
    wanted = SynthesisSettings(seed=1, priority="bulk")
    assert client.synthesize_to_folder(out, COUNTS, wanted).num_resumed == 3
    with pytest.raises(CytosynthError, match=r"guidance_start was None, is 0\.0"):
        client.synthesize_to_folder(
            out, COUNTS, SynthesisSettings(seed=1, sampler=SamplerSettings(guidance_start=0.0))
        )


def test_another_request_or_foreign_files_are_not_mixed_in(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    client.synthesize_to_folder(tmp_path / "out", COUNTS, SynthesisSettings(seed=1))
    with pytest.raises(CytosynthError, match="another synthesis"):
        client.synthesize_to_folder(tmp_path / "out", COUNTS, SynthesisSettings(seed=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.doc").write_text("do not touch")
    with pytest.raises(CytosynthError, match=r"thesis\.doc"):
        client.synthesize_to_folder(tmp_path / "mine", COUNTS)
    toy.generator.breaks = [Break(2)]
    with pytest.raises(CytosynthError):
        client.synthesize_to_folder(tmp_path / "half", COUNTS, max_failures=1)
    toy.generator.new_manifest_from = 0
    with pytest.raises(CytosynthError, match="changed since this folder was begun"):
        client.synthesize_to_folder(tmp_path / "half", COUNTS, max_failures=1)


def test_a_refused_request_leaves_no_folder(client: Client, tmp_path: Path) -> None:
    with pytest.raises(CytosynthError):
        client.synthesize_to_folder(tmp_path / "out", {"unknown": 2})
    assert not (tmp_path / "out").exists()


def test_a_killed_process_leaves_a_folder_that_can_be_completed(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    out, counts = tmp_path / "out", {"blast": 1500}
    code = (
        "import sys; from cytosynth.client import Client; "
        "Client(sys.argv[1]).synthesize_to_folder(sys.argv[2], {'blast': 1500})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, toy.address, str(out)], cwd=ROOT)
    table = out / "metadata.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (table.exists() and table.stat().st_size > 3000):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = client.synthesize_to_folder(out, counts)
    assert 0 < done.num_resumed < 1500
    assert [line["index"] for line in _lines(out)] == list(range(1500))
    assert len(list(out.glob("blast/*.png"))) == 1500
