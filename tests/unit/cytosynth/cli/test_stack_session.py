"""Services for the length of a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cytosynth.cli import main
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import PortTaken, StackInfo
from tests.support.servers.toy_services.server import ToyServices


def test_run_starts_services_on_a_free_port_and_stops_them(
    toy: ToyServices,
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[object] = []
    port = int(toy.address.rpartition(":")[2])

    def up(wanted: int, **settings: object) -> StackInfo:
        calls.append(wanted)
        if wanted != port:
            raise PortTaken("127.0.0.1", wanted, port)
        return StackInfo(
            address=toy.address,
            host="127.0.0.1",
            port=port,
            tls=False,
            client_certificates="none",
            pid=1,
            state_dir=tmp_path,
            log_path=tmp_path / "log",
            start_time=0.0,
        )

    monkeypatch.setattr(local_stack, "up", up)
    monkeypatch.setattr(local_stack, "down", lambda *args: calls.append("down"))
    monkeypatch.setattr("cytosynth.client.connection.DEFAULT_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("cytosynth.client.DEFAULT_ADDRESS", "127.0.0.1:1")
    out_folder = tmp_path / "out"
    command = ["run", "--data", str(cells), "--out", str(out_folder), "--shots", "1"]
    assert main(command) == 0
    assert calls == [1, port, "down"]
    assert f"port 1 is taken; using {port}" in capsys.readouterr().err
    seconds = json.loads((out_folder / "report.json").read_text())["seconds"]
    assert "start_services" in seconds
    calls.clear()
    assert main([*command, "--keep-stack"]) == 0
    assert calls == [1, port]


def test_services_at_a_remote_address_are_not_started(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--data", str(cells), "--out", str(tmp_path / "out"), "--shots", "1"]
    assert main([*command, "--address", "cells.invalid:1"]) == 1
    assert "no Cytosynth answers at cells.invalid:1" in capsys.readouterr().err
