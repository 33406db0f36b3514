"""Help, usage, errors and options of every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from cytosynth.cli import main
from cytosynth.stack.certs import make_certificates
from tests.support.servers.recorded_stack import recorded_stack
from tests.support.servers.toy_services.server import Cyto, ToyServices, toy_services

ROOT = Path(__file__).resolve().parents[4]


def test_help_is_quick_and_says_research_use() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cytosynth.cli", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Not a medical device" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "ray", "grpc", "numpy", "PIL", "cryptography"}


def test_version_says_research_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cytosynth ")
    assert "Research use only. Not a medical device." in out


@pytest.mark.parametrize(
    "args",
    [
        ["no-such-command"],
        ["synthesize", "--out", "x"],
        ["synthesize", "--out", "x", "blast"],
        ["synthesize", "--out", "x", "blast=many"],
        ["synthesize", "--out", "x", "--per-class", "3"],
        ["classify", "--csv", "--json", "x"],
        ["run", "--data", "x"],
        ["delete", "jobs/j1"],
        ["phantoms", "--out", "x", "--classes", "dragon"],
    ],
)
def test_wrong_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err
    assert "Traceback" not in err


def test_no_services_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--address", "127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("cytosynth: no Cytosynth answers at 127.0.0.1:1; start one with")
    assert err.count("\n") == 1


def test_errors_are_json_for_machines(cyto: Cyto) -> None:
    code, out, err = cyto("watch", "jobs/none", "--json")
    assert (code, out) == (1, "")
    error = json.loads(err)["error"]
    assert error["code"] == "NOT_FOUND"
    assert error["message"] == "jobs/none does not exist"


def test_commands_find_the_local_stack(
    toy: ToyServices, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorded_stack(toy.address):
        assert main(["capabilities", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default_base"] == "toy"


def test_mutual_tls_takes_its_certificates_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_certificates(tmp_path / "certs", tenants=["ward-3"])
    pair = (made.server.key.read_bytes(), made.server.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], made.ca.read_bytes(), True)
    with toy_services(credentials) as secured:
        command = ["capabilities", "--json", "--address", secured.address]
        options = ["--tls-dir", str(made.directory), "--tenant"]
        assert main([*options, "ward-3", *command]) == 0
        assert json.loads(capsys.readouterr().out)["default_base"] == "toy"
        assert main([*options, "ward-4", *command]) == 1
        assert "no certificate for tenant 'ward-4'" in capsys.readouterr().err
        assert main(["--tls-dir", str(tmp_path), *command]) == 1
        assert "ca.pem cannot be read" in json.loads(capsys.readouterr().err)["error"]["message"]
