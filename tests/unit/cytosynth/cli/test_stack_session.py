"""Services for the length of a command."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from cytosynth.cli import main, show
from cytosynth.cli.pipeline_view import PhaseView
from cytosynth.client import Job
from cytosynth.common.v1 import job_pb2
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import PortTaken, StackInfo
from tests.support.servers.toy_services.server import Cyto, ToyServices


def own_stack(address: str, folder: Path) -> StackInfo:
    return StackInfo(
        address=address,
        host="127.0.0.1",
        port=int(address.rpartition(":")[2]),
        tls=False,
        client_certificates="none",
        pid=1,
        state_dir=folder,
        log_path=folder / "log",
        start_time=0.0,
    )


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
        return own_stack(toy.address, tmp_path)

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


class Interrupting:
    """Presses Ctrl-C when a job has made its second step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        show_job = PhaseView.job

        def job(view: PhaseView, job: Job) -> None:
            show_job(view, job)
            if job.progress.step == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(PhaseView, "job", job)


def test_ctrl_c_leaves_the_job_to_services_that_stay(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", "--data", cells, "--out", tmp_path / "out", "--shots", 1)
    with monkeypatch.context() as patch:
        Interrupting(patch)
        code, _, err = cyto(*command)
    assert code == 130
    assert err.splitlines()[-1] == (
        "cytosynth: interrupted; jobs/j1 goes on; the same command follows it again, "
        "`cytosynth cancel jobs/j1` ends it"
    )
    assert toy.trainer.jobs["jobs/j1"].state != job_pb2.JOB_STATE_CANCELLED
    assert cyto(*command)[0] == 0
    kinds = [type(request).__name__ for request in toy.trainer.requests]
    assert kinds.count("CreateAdapterRequest") == 1, "it was found again"


def test_ctrl_c_on_a_stack_of_its_own_says_that_the_job_waits(
    toy: ToyServices,
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(local_stack, "up", lambda *_, **__: own_stack(toy.address, tmp_path))

    def down() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # Pressed twice.
        calls.append("down")

    monkeypatch.setattr(local_stack, "down", down)
    Interrupting(monkeypatch)
    command = ["study", "--data", str(cells), "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert calls == ["down"]
    assert capsys.readouterr().err.splitlines()[-1] == (
        "cytosynth: interrupted; jobs/j1 waits with its checkpoint; "
        "the same command goes on from there"
    )
    assert toy.trainer.jobs["jobs/j1"].state != job_pb2.JOB_STATE_CANCELLED
    command[-1] = str(tmp_path / "other")
    assert main([*command, "--keep-stack"]) == 130
    assert "jobs/j2 goes on" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit-adapter", "fit-classifier", "watch"])
def test_ctrl_c_never_cancels_a_job(
    cyto: Cyto, toy: ToyServices, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def job(meter: show.Meter, job: Job) -> None:
        raise KeyboardInterrupt

    cyto("fit-adapter", "datasets/d", "--no-wait", "--idempotency-key", "k")
    monkeypatch.setattr(show.Meter, "job", job)
    code, _, err = cyto(command, "jobs/j1" if command == "watch" else "datasets/d")
    assert code == 130
    assert "goes on" in err
    states = {job.state for job in toy.trainer.jobs.values()}
    assert job_pb2.JOB_STATE_CANCELLED not in states
