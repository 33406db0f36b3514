"""The command line against real gRPC servers whose answers are known by hand."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cytosynth.cli import main
from cytosynth.cli.show import duration
from cytosynth.generator.v1 import generator_pb2
from cytosynth.stack import stack as local_stack
from cytosynth.stack.certs import make_certificates
from cytosynth.stack.state import PortTaken, StackInfo
from services.common.errors import FailedPrecondition
from tests.support.servers.fakes_server import ToyServices, toy_services
from tests.support.servers.recorded_stack import recorded_stack

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOSYNTH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CYTOSYNTH_ADDRESS", raising=False)


@pytest.fixture
def cells(folder: Path) -> Path:
    return folder


@pytest.fixture
def cyto(
    toy: ToyServices, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command against the toy services; gives exit code, stdout, stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, args), "--address", toy.address])
        return code, *capsys.readouterr()

    return run


Cyto = Callable[..., tuple[int, str, str]]


# Help and usage


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
        ["delete", "classifiers/c1"],
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


# Training and jobs


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


def test_a_job_is_followed_to_its_result(cyto: Cyto) -> None:
    code, out, err = cyto("fit-adapter", "datasets/d1", "--rank", 4)
    assert (code, out) == (0, "adapters/a1\n")
    assert "training" in err
    code, out, _ = cyto("fit-classifier", "datasets/d1", "--adapter", "adapters/a1", "--no-wait")
    assert (code, out) == (0, "jobs/j2\n")
    code, out, _ = cyto("watch", "jobs/j2", "--json")
    assert code == 0
    states = [json.loads(line)["state"] for line in out.splitlines()]
    assert states == ["PENDING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"]
    code, out, _ = cyto("jobs", "--json")
    assert [job["result"] for job in json.loads(out)] == ["classifiers/c2", "adapters/a1"]
    code, out, _ = cyto("jobs")
    assert "classifiers/c2" in out


def test_a_failed_job_is_one_line_and_exit_1(cyto: Cyto, toy: ToyServices) -> None:
    toy.trainer.job_errors["fit_adapter"] = FailedPrecondition(
        "cyto-small", "has seen test images", "use cyto-small-phantoms"
    )
    code, out, err = cyto("fit-adapter", "datasets/d1")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last == "cytosynth: cyto-small: has seen test images; use cyto-small-phantoms"


def test_a_job_is_cancelled(cyto: Cyto, toy: ToyServices) -> None:
    toy.trainer.hold.clear()
    cyto("fit-adapter", "datasets/d1", "--no-wait")
    assert cyto("cancel", "jobs/j1")[:2] == (0, "jobs/j1: cancelled\n")
    assert cyto("watch", "jobs/j1")[0] == 1


def test_datasets_are_listed_and_deleted(cyto: Cyto, cells: Path) -> None:
    cyto("upload", cells, "--shots", 1)
    assert json.loads(cyto("datasets", "--json")[1])[0]["name"] == "datasets/d1"
    code, out, _ = cyto("delete", "datasets/d1", "--yes")
    assert (code, out) == (0, "datasets/d1: 5 objects deleted, proof d1\n")
    assert json.loads(cyto("datasets", "--json")[1]) == []


# Synthesis and classification


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
    assert last == "cytosynth: priority: 'urgent' is unknown; interactive or bulk"
    assert not toy.generator.requests and not (tmp_path / "out").exists()


def test_capabilities_are_shown(cyto: Cyto) -> None:
    code, out, _ = cyto("capabilities")
    assert code == 0
    assert "toy" in out
    assert "at most 1000 images per request" in out


def test_classify_prints_a_table_json_or_csv(cyto: Cyto, cells: Path) -> None:
    code, out, _ = cyto("classify", cells / "blast", cells / "mono/0.png")
    assert code == 0
    assert "Not a medical device" in out
    assert "blast" in out
    code, out, _ = cyto("classify", cells, "--json", "--batch-size", 2)
    images = json.loads(out)["images"]
    assert [image["class"] for image in images] == ["blast"] * 3 + ["mono"] * 2
    assert images[0]["probabilities"]["blast"] == pytest.approx(200 / 255)
    code, out, _ = cyto("classify", cells, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert float(rows[3]["p_blast"]) == pytest.approx(10 / 255, abs=1e-6)


def test_a_bad_image_is_named(cyto: Cyto, cells: Path) -> None:
    (cells / "mono/0.png").write_bytes(b"not an image")
    code, out, err = cyto("classify", cells)
    assert (code, out) == (1, "")
    assert f"{cells / 'mono/0.png'}: is not an image; send PNG or JPEG" in err
    code, _, err = cyto("classify", cells / "nowhere.png")
    assert code == 1
    assert "nowhere.png does not exist" in err


def test_models_and_aliases(cyto: Cyto) -> None:
    assert json.loads(cyto("models", "--json")[1])[0]["aliases"] == ["aliases/production"]
    out = cyto("alias", "set", "production", "classifiers/c2")[1]
    assert out == "aliases/production -> classifiers/c2 (before: classifiers/c1)\n"
    assert "classifiers/c1 (before: nothing)" in cyto("alias", "rollback", "production")[1]
    assert "classifiers/c1" in cyto("alias", "list")[1]


# The pipeline and the stack


def test_run_ends_with_the_table_and_the_paths(cyto: Cyto, cells: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "out"
    command = ("run", "--data", cells, "--out", out_folder, "--shots", 1, "--per-class", 5)
    code, out, err = cyto(*command)
    assert code == 0
    assert "0.500 [0.400, 0.900]" in out
    assert "+0.100 [-0.050, +0.250]" in out
    assert out.splitlines()[-2:] == [
        str(out_folder / name) for name in ("report.html", "report.json")
    ]
    assert "fit resnet18 real_plus_synthetic" in err
    seconds = json.loads((out_folder / "report.json").read_text())["seconds"]
    assert set(seconds) >= {"upload", "fit_adapter", "fit_clip_real_only"}


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


def test_phantoms_write_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phantoms"
    command = [
        "phantoms",
        "--out",
        str(out),
        "--per-class",
        "2",
        "--classes",
        "monocyte,myeloblast",
    ]
    assert main(command) == 0
    assert len(list(out.glob("*/*.png"))) == 4
    assert "4 phantom cells of 2 classes" in capsys.readouterr().out
    assert main(command) == 2  # Not into a folder that holds something.


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (185, "3:05"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# study


def test_study_asks_for_one_job_and_shows_every_arm(
    toy: ToyServices, cyto: Cyto, cells: Path, tmp_path: Path
) -> None:
    asked = ["--shots", "2,1", "--per-class", "2,4", "--draws", "3", "--models", "clip"]
    asked += ["--base", "toy", "--steps", "7", "--seed", "5", "--title", "T"]
    asked += ["--sampler-preset", "balanced"]
    code, out, _ = cyto("study", "--data", cells, "--out", tmp_path / "out", *asked)
    assert code == 0
    [request] = toy.trainer.requests
    assert (request.dataset, request.title) == ("datasets/d1", "T")
    settings = request.settings
    assert (list(settings.models), list(settings.num_per_class)) == (["clip"], [2, 4])
    assert dict(settings.class_shots) == {"blast": 2, "mono": 1}
    assert (settings.num_draws, settings.num_steps, settings.seed) == (3, 7, 5)
    assert (settings.base, settings.sampler_preset) == ("toy", "balanced")
    assert not settings.HasField("max_test_per_class")
    assert "real_plus_synthetic_4" in out and "+0.050 [+0.010, +0.090]" in out
    assert "Means of 3 draws" not in out and "Means of 2 draws" in out, "as the report says"
    assert (tmp_path / "out/report.html").is_file()


def test_study_with_wrong_amounts_is_refused_before_anything_is_sent(
    toy: ToyServices, cyto: Cyto, cells: Path, tmp_path: Path
) -> None:
    code, _, err = cyto("study", "--data", cells, "--out", tmp_path / "o", "--per-class", "many")
    assert code == 2 and "--per-class" in err
    assert not toy.trainer.requests and not toy.trainer.uploads


def test_study_of_a_bad_folder_starts_no_services(
    monkeypatch: pytest.MonkeyPatch, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(*_: object, **__: object) -> None:
        raise AssertionError("services were started")

    monkeypatch.setattr(local_stack, "up", up)
    (cells / "labels.csv").write_text("file,class,Patient\nblast/0.png,blast,p1\n")
    command = ["study", "--data", str(cells), "--out", str(tmp_path / "o")]
    assert main([*command, "--address", "127.0.0.1:1"]) == 1
    assert "'Patient'; rename it to patient_id" in capsys.readouterr().err
