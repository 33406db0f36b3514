"""Review command and server: blinded, strict about input, closed to other sites."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cytosynth.cli import main
from cytosynth.review.serve import is_loopback
from tests.support.reviews import CLASSES, Served, ask, served, small_mix, write_trees

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A review of 8 cells."""
    with served(*small_mix(tmp_path_factory.mktemp("review"))) as found:
        yield found


def _answer(page: Served, name: str, **change: Any) -> dict[str, Any]:
    good = {
        "reviewer": name,
        "cell": page.mix.order(name)[0],
        "call": "probably_real",
        "class_id": "monocyte",
        "quality": 4,
    }
    return {**good, **change}


def test_no_response_tells_what_a_cell_is(page: Served) -> None:
    page.post(_answer(page, "Truth seeker"))
    answers = page.get("/api/answers?reviewer=Truth%20seeker")
    found = json.loads(answers[2])
    assert set(found) == {"cells", "answers"}
    assert found["cells"] == page.mix.order("Truth seeker")
    assert [set(answer) for answer in found["answers"].values()] == [
        {"call", "class_id", "quality"}
    ]
    cells = [page.get(f"/cells/{cell.id}.png") for cell in page.mix.cells]
    assert {status for status, _, _ in cells} == {200}
    # Every cell comes with the same headers, its length included.
    assert len({json.dumps({**h, "date": ""}, sort_keys=True) for _, h, _ in cells}) == 1
    everything = [answers, page.get("/"), page.get("/label?reviewer=Truth%20seeker"), *cells]
    secrets = [cell.file_name for cell in page.mix.cells] + ["secret", "photos/", "drawn/"]
    secrets += [text for cell in page.mix.cells for text in (cell.sha256, cell.png_sha256)]
    for _, headers, body in everything:
        told = json.dumps(headers).encode() + body
        assert not [secret for secret in secrets if secret.encode() in told]
    # A page says the same to everybody but for the name: nothing on it depends on a cell.
    pages = [page.get(f"/label?reviewer={name}")[2].decode() for name in ("Ada", "Ben")]
    pages = [re.sub(r'nonce="[^"]+"', "", text) for text in pages]
    assert pages[0].replace("Ada", "Ben") == pages[1]
    assert not [cell.id for cell in page.mix.cells if cell.id in pages[0]]


def test_an_answer_is_kept_and_given_back(page: Served) -> None:
    first = _answer(page, "Grace")
    assert page.post(first) == (200, {"kept": first["cell"]})
    assert page.post({**first, "quality": 1})[0] == 200
    kept = json.loads(page.get("/api/answers?reviewer=grace")[2])["answers"]
    assert kept == {first["cell"]: {"call": "probably_real", "class_id": "monocyte", "quality": 1}}
    assert [a.quality for a in page.answers.history() if a.reviewer == "Grace"] == [4, 1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cell": "0" * 16}, "cell"),
        ({"class_id": "dragon"}, "class_id"),
        ({"quality": 0}, "quality"),
        ({"call": None}, "call"),
        ({"reviewer": "<script>"}, "reviewer"),
    ],
)
def test_bad_fields_are_refused_by_name(page: Served, change: dict[str, Any], field: str) -> None:
    status, body = page.post(_answer(page, "Bad", **change))
    assert status == 400
    assert body["error"]["field"] == field and body["error"]["message"].startswith(field)
    assert body["error"]["remedy"]
    assert not page.answers.of("Bad")


def test_bad_requests_are_refused_with_a_remedy(page: Served) -> None:
    good = _answer(page, "Bad")
    cases = [
        (page.post(b"{"), 400, "body: is not JSON"),
        (page.post(b"[" * 4000), 400, "body: is not JSON"),
        (page.post(b" " * 5000), 413, "body: has more than 4096 bytes"),
        (page.post(good, Content_Type="text/plain"), 415, "Content-Type: is not application/json"),
        (page.post(good, Origin="http://evil.example"), 403, "Origin: is another site"),
        (page.post(good, Origin="null"), 403, "Origin: is another site"),
        (page.post(good, Sec_Fetch_Site="cross-site"), 403, "Origin: is another site"),
    ]
    for (status, body), expected, message in cases:
        assert (status, body["error"]["message"]) == (expected, message)
        assert body["error"]["remedy"]
    assert page.get("/", Host="evil.example")[0] == 400
    assert page.get("/cells/../../mix.json.png")[0] == 404
    assert page.get("/cells/mix.png")[0] == 404 and page.get("/mix.json")[0] == 404
    assert page.get("/api/answers")[0] == 400
    assert not page.answers.of("Bad")


def test_own_origin_may_answer(page: Served) -> None:
    status, _ = page.post(_answer(page, "Own"), Origin=page.url, Sec_Fetch_Site="same-origin")
    assert status == 200


def test_a_bad_name_is_asked_for_again(page: Served) -> None:
    status, _, body = page.get("/label?reviewer=%3Cscript%3Ealert(1)%3C/script%3E")
    assert status == 400
    assert b"give 1 to 60 letters" in body and b"<script>alert" not in body


def test_pages_allow_only_their_own_script(page: Served) -> None:
    _, headers, body = page.get("/label?reviewer=Ada")
    nonce = re.search(rb'<script nonce="([^"]+)"', body)
    assert nonce and f"script-src 'nonce-{nonce[1].decode()}'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert page.get("/label?reviewer=Ada")[1]["content-security-policy"] != nonce[1].decode()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("10.0.0.7", False), ("example.org", False)],
)  # fmt: skip
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# The command


@contextmanager
def _command(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`cytosynth review` as a process, and the address of its page."""
    command = [
        *(sys.executable, "-m", "cytosynth.cli", "review", "--real", str(folder / "photos")),
        *("--synthetic", str(folder / "drawn"), "--out", str(folder / "out"), "--port", "0"),
        *("--per-class", "2", *more),
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout and child.stderr
        line = child.stdout.readline()
        address = re.search(r"http://\S+(?=/)", line)
        try:
            assert address, line + child.stderr.read()
            yield child, address[0]
        finally:
            child.kill()


def test_a_killed_review_goes_on_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    write_trees(tmp_path)
    headers = {"Content-Type": "application/json"}
    with _command(tmp_path) as (child, url):
        order = json.loads(ask(f"{url}/api/answers?reviewer=Ada", None, {})[2])["cells"]
        answer = {"reviewer": "Ada", "cell": order[0], "call": "surely_real",
                  "class_id": CLASSES[0], "quality": 3}  # fmt: skip
        assert ask(f"{url}/api/answers", json.dumps(answer).encode(), headers)[0] == 200
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    with _command(tmp_path) as (child, url):
        found = json.loads(ask(f"{url}/api/answers?reviewer=Ada", None, {})[2])
        assert found["cells"] == order and list(found["answers"]) == [order[0]]
        again = subprocess.run(child.args, cwd=ROOT, capture_output=True, text=True, check=False)
        assert again.returncode == 1 and "another process serves" in again.stderr
        child.send_signal(signal.SIGINT)
        told, errors = child.communicate(timeout=30)
        assert child.returncode == 0
        assert "Ended. Answers are in" in told and "Traceback" not in errors
        assert "no password" not in errors


def test_an_open_address_is_warned_of(tmp_path: Path) -> None:
    write_trees(tmp_path)
    with _command(tmp_path, "--host", "0.0.0.0") as (child, url):
        address = url.replace("0.0.0.0", "127.0.0.1")
        assert ask(f"{address}/", None, {})[0] == 200
        assert ask(f"{address}/", None, {"Host": "evil.example"})[0] == 400
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=30)
        assert child.returncode == 0 and "the page asks for no password" in errors


def test_wrong_usage_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mix, out = small_mix(tmp_path)
    folders = ["--real", str(tmp_path / "photos"), "--synthetic", str(tmp_path / "drawn")]
    assert main(["review", *folders, "--out", str(out), "--center-crop", "0"]) == 2
    assert main(["review", *folders, "--out", str(out), "--per-class", "3"]) == 1
    assert "--per-class was 2, not 3" in capsys.readouterr().err
    assert main(["review-report", "--out", str(out)]) == 1
    assert "no cell has been labelled yet" in capsys.readouterr().err
    with served(mix, out) as page:
        page.post(_answer(page, "Ada"))
    assert main(["review-report", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Ada" in told and "review.html" in told
    assert main(["review-report", "--out", str(out), "--report", str(tmp_path)]) == 1
    assert "holds no study (report.json is missing)" in capsys.readouterr().err
    assert main(["review-report", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reviewers"][0]["reviewer"] == "Ada"
