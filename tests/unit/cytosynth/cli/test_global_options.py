"""Global options before and after a command, refused where they do nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cytosynth.cli import main
from tests.support.servers.recorded_stack import recorded_stack
from tests.support.servers.toy_services.server import Cyto, ToyServices


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_they_work_before_the_command_and_after_it(
    toy: ToyServices, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    words = ["alias", "list"]
    given = ["--address", toy.address, "--json", "--tenant=ward-3", "--timeout", "9"]
    if place == 1:
        given = []
        words = ["--json", "--address", toy.address, "alias", "list", "--tenant", "ward-3"]
    if place == 3:
        given, words = [], ["alias", *given, "list"]
    command = [*given, *words] if place < 2 else [*words, *given]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "aliases/production"


def test_the_one_after_the_command_counts(
    toy: ToyServices, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--address", "127.0.0.1:1", "jobs", "--address", toy.address]) == 0
    assert main(["--address", toy.address, "jobs", "--address", "127.0.0.1:1"]) == 1


def test_the_environment_counts_less(
    toy: ToyServices, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CYTOSYNTH_ADDRESS", toy.address)
    assert main(["jobs"]) == 0
    assert main(["--address", "127.0.0.1:1", "jobs"]) == 1


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["--json", "phantoms", "--out", "x"], "--json"),
        (["--address", "a:1", "phantoms", "--out", "x"], "--address"),
        (["--tenant", "t", "down"], "--tenant"),
        (["--certs-dir", "c", "logs"], "--certs-dir"),
    ],
)
def test_one_that_would_do_nothing_is_refused(
    command: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert option in err and "has no effect on" in err and "leave it out" in err


def test_an_error_before_the_command_is_json_too(
    toy: ToyServices, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--json", "--address", toy.address, "watch", "jobs/none"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "NOT_FOUND"


def test_verbose_logs_each_call_with_its_request_id(cyto: Cyto) -> None:
    code, _, err = cyto("jobs", "-v")
    assert code == 0
    [line] = [line for line in err.splitlines() if "ListJobs" in line]
    assert "(request " in line and ": OK after " in line


def test_a_tenant_on_a_stack_without_tls_is_refused(
    toy: ToyServices, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorded_stack(toy.address):
        assert main(["--tenant", "ward-3", "jobs"]) == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "has no effect on a stack without TLS" in err


def test_an_old_name_works_and_says_the_new_one(
    cyto: Cyto, toy: ToyServices, tmp_path: Path
) -> None:
    command = ("synthesize", "blast=1", "--out", tmp_path / "out")
    code, _, err = cyto(*command, "--preset=draft", "--steps", 3)
    assert code == 0
    sampler = toy.generator.requests[0].sampler
    assert (sampler.preset, sampler.num_steps) == ("draft", 3)
    assert "note: --preset is called --sampler-preset now" in err
    assert "note: --steps is called --sampler-steps now" in err
    code, _, err = cyto(*command, "--preset", "draft", "--steps", 3, "--json")
    assert (code, err) == (0, "")
