"""What the stack wrote down is printed, to its end and further."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cytosynth.cli import main
from cytosynth.stack.state import StackFiles, default_state_dir

ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
def files() -> StackFiles:
    found = StackFiles(default_state_dir())
    found.logs.mkdir(parents=True)
    found.supervisor_log.write_text("".join(f"line {n}\n" for n in range(100)))
    found.access_log.write_text('{"path": "/a"}\n')
    folder = found.ray / "session_latest/logs/serve"
    folder.mkdir(parents=True)
    (folder / "replica.log").write_bytes(b"caf\xe9 opens\n")
    (folder.parent / "worker-1.out").write_text("one\ntwo\n")
    (folder.parent / "gcs_server.out").write_text("Ray's own\n")
    return found


def test_the_last_lines_are_printed(files: StackFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "line 98\nline 99\n"
    assert main(["logs", "access"]) == 0
    assert capsys.readouterr().out == '{"path": "/a"}\n'
    assert main(["logs", "workers", "--lines", "1"]) == 0
    out = capsys.readouterr().out
    assert "==> worker-1.out <==\ntwo\n" in out
    assert "==> replica.log <==\ncaf\\xe9 opens\n" in out
    assert "Ray's own" not in out


@pytest.mark.parametrize(("which", "told"), [("edge", "has no edge log"), ("cook", "is none of")])
def test_a_log_that_is_not_there_is_a_usage_error(
    files: StackFiles, which: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", which]) == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_follow_prints_what_is_added_until_interrupted(files: StackFiles) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cytosynth.cli", "logs", "--follow", "--lines", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "line 99\n"
    with files.supervisor_log.open("a") as log:
        log.write("line 100\n")
    assert process.stdout.readline() == "line 100\n"
    files.supervisor_log.write_text("anew\n")
    assert process.stdout.readline() == "anew\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; the services go on" in err
