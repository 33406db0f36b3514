"""Classification: tables, JSON, CSV and images that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers.toy_services.server import Cyto, ToyServices

ROOT = Path(__file__).resolve().parents[5]


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


def test_csv_has_plain_line_ends_and_goes_to_a_file(
    cyto: Cyto, cells: Path, tmp_path: Path
) -> None:
    code, printed, _ = cyto("classify", cells, "--csv")
    assert code == 0 and "\r" not in printed
    code, out, _ = cyto("classify", cells, "--csv", "--out", tmp_path / "new/cells.csv")
    assert (code, out) == (0, "")
    assert (tmp_path / "new/cells.csv").read_bytes() == printed.encode()
    code, _, _ = cyto("classify", cells, "--json", "--out", tmp_path / "cells.json")
    assert len(json.loads((tmp_path / "cells.json").read_text())["images"]) == 5
    code, _, err = cyto("classify", cells, "--out", tmp_path / "cells.txt")
    assert code == 2 and "--csv or --json" in err


def test_images_that_cannot_be_read_are_named_and_all_others_classified(
    cyto: Cyto, toy: ToyServices, cells: Path
) -> None:
    refused, empty = cells / "mono/0.png", cells / "blast/1.png"
    refused.write_bytes(b"not an image")
    empty.write_bytes(b"")
    code, out, err = cyto("classify", cells, "--csv")
    assert code == 3
    assert [Path(row["file"]).name for row in csv.DictReader(io.StringIO(out))] == [
        "0.png",
        "2.png",
        "1.png",
    ]
    assert f"cytosynth: {empty}: the file is empty" in err
    assert f"cytosynth: {refused}: is not an image; send PNG or JPEG" in err
    assert "2 of 5 images were refused" in err
    code, out, _ = cyto("classify", cells, "--json", "--batch-size", 2)
    body = json.loads(out)
    assert code == 3 and len(body["images"]) == 3
    assert [Path(item["file"]).name for item in body["errors"]] == ["1.png", "0.png"]
    code, out, _ = cyto("classify", cells)
    assert code == 3 and "blast" in out
    code, out, err = cyto("classify", refused, empty)
    assert (code, out) == (3, "") and "2 of 2 images" in err


def test_a_fault_of_the_call_is_not_one_of_an_image(cyto: Cyto, cells: Path) -> None:
    code, out, err = cyto("classify", cells, "--model", "aliases/none")
    assert (code, out) == (1, "") and "aliases/none does not exist" in err
    code, _, err = cyto("classify", cells / "nowhere.png")
    assert code == 1
    assert "nowhere.png does not exist" in err


def test_a_file_name_that_is_not_text_is_printed_escaped(
    toy: ToyServices, cells: Path, tmp_path: Path
) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(bytes([250]))
    command = [sys.executable, "-m", "cytosynth.cli", "classify", name, "--address", toy.address]
    for option in ([], ["--json"], ["--csv"], ["--csv", "--out", str(tmp_path / "o.csv")]):
        done = subprocess.run([*command, *option], capture_output=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert "caf\\udce9.png" in (tmp_path / "o.csv").read_text()
