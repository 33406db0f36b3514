"""Which services a command calls when no address is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import grpc
import pytest

from cytosynth.cli import main
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import StackFiles, StartupFailed
from tests.support.servers.recorded_stack import recorded_stack


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOSYNTH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CYTOSYNTH_ADDRESS", raising=False)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that anything tried to call."""
    addresses: list[str] = []

    def dial(address: str, *args: object, **options: object) -> NoReturn:
        addresses.append(address)
        raise AssertionError(f"dialled {address}")

    monkeypatch.setattr(grpc, "insecure_channel", dial)
    return addresses


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    folder = tmp_path / "cells" / "blast"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"\x89PNG 1")
    return folder.parent


COMMANDS = [
    ["capabilities"],
    ["jobs"],
    ["adapters"],
    ["upload", "CELLS", "--shots", "1"],
    ["classify", "CELLS", "--model", "production"],
    ["cancel", "jobs/1"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_a_stack_of_its_own_a_command_calls_nobody(
    command: list[str], cells: Path, dialled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(cells) if part == "CELLS" else part for part in command]
    assert main(arguments) == 1
    assert dialled == []
    told = capsys.readouterr().err
    assert "is running. Start one with 'cytosynth up', or" in told
    assert "--address HOST:PORT" in told
    assert "Traceback" not in told


def test_a_recorded_stack_that_died_is_not_called(
    dialled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with recorded_stack("127.0.0.1:9"):
        pass
    assert StackFiles(Path(os.environ["CYTOSYNTH_STATE_DIR"])).read() is not None
    assert main(["jobs"]) == 1
    assert dialled == []
    assert "Start one with 'cytosynth up'" in capsys.readouterr().err


def test_run_starts_its_own_stack_instead_of_calling_a_stranger(
    cells: Path,
    dialled: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def up(port: int, **settings: object) -> NoReturn:
        raise StartupFailed("it did not start", tmp_path / "log")

    monkeypatch.setattr(local_stack, "up", up)
    command = ["run", "--data", str(cells), "--out", str(tmp_path / "out"), "--shots", "1"]
    assert main(command) == 1
    assert dialled == []
    assert "it did not start" in capsys.readouterr().err
