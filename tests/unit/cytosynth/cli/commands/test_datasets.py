"""Uploads and imports from the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.servers.toy_services.server import Cyto, ToyServices

ROOT = Path(__file__).resolve().parents[5]


def test_upload_shows_the_split_and_what_was_left_out(
    cyto: Cyto, toy: ToyServices, cells: Path
) -> None:
    (cells / "mono/notes.txt").write_text("x")
    code, out, err = cyto("upload", cells, "--shots", "2,1", "--seed", 4, "--name", "Ward")
    assert code == 0
    assert out.splitlines()[-1] == "datasets/d1"
    assert "note: mono/notes.txt: left out" in err
    assert "note: toy notice" in err
    header = toy.trainer.uploads[0].header
    assert header is not None
    assert dict(header.split.class_shots) == {"blast": 2, "mono": 1}
    assert (header.split.seed, header.display_name) == (4, "Ward")


@pytest.mark.parametrize(
    ("shots", "message"),
    [("1,2,3", "3 numbers for 2 classes"), ("lymph=2", "no class 'lymph'"), ("a,b", "neither")],
)
def test_shots_that_do_not_fit_are_usage_errors(
    cyto: Cyto, cells: Path, shots: str, message: str
) -> None:
    code, _, err = cyto("upload", cells, "--shots", shots)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_an_interrupted_upload_keeps_nothing(toy: ToyServices, tmp_path: Path) -> None:
    toy.trainer.pause_uploads_at = 6  # so that the rest is still to be sent when the signal comes
    (tmp_path / "many/blast").mkdir(parents=True)
    for number in range(60):
        (tmp_path / f"many/blast/{number}.png").write_bytes(bytes(2_000_000))
    command = [sys.executable, "-m", "cytosynth.cli", "upload", str(tmp_path / "many")]
    process = subprocess.Popen(
        [*command, "--address", toy.address],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in a shell's background the signal is ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        toy.trainer.uploads and len(toy.trainer.uploads[0].images) > 5
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    toy.trainer.resume_uploads.set()
    assert process.returncode == 130
    assert "cytosynth: interrupted; nothing was kept" in err
    assert "Traceback" not in err
    time.sleep(0.2)
    assert toy.trainer.datasets == {}
