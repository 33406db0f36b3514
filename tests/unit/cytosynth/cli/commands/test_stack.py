"""Inspection of services at an address; refusal of options without effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cytosynth.cli import main
from tests.support.servers.toy_services.server import Cyto


def test_status_of_an_address_calls_every_service(cyto: Cyto) -> None:
    code, out, _ = cyto("status")
    assert code == 0
    assert [out.count(name) for name in ("generator", "classifier", "trainer")] == [1, 1, 1]
    code, out, _ = cyto("status", "--json")
    assert {item["name"]: item["ready"] for item in json.loads(out)["services"]} == {
        "generator": True,
        "classifier": True,
        "trainer": True,
    }


def test_status_of_an_address_where_nothing_answers_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["status", "--address", "127.0.0.1:1"]) == 1
    assert "no Cytosynth answers at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option", "remedy"),
    [
        (["up", "--client-certificates", "required"], "--client-certificates", "add --tls"),
        (["up", "--certs-dir", "certs"], "--certs-dir", "add --tls"),
        (["status", "--address", "a:1", "--state-dir", "s"], "--state-dir", "leave one"),
    ],
)
def test_options_that_do_nothing_are_refused(
    command: list[str], option: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert option in err and "has no effect" in err and remedy in err


def test_certificates_take_old_names_of_their_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certs", "--out", str(tmp_path / "certs"), "--tenant", "ward-3", "--json"]
    assert main(command) == 0
    made = json.loads(capsys.readouterr().out)
    assert "ward-3" in made["tenants"]
    assert (tmp_path / "certs/client-ward-3.pem").is_file()
