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


def test_answers_tell_sets_and_reasons_in_every_format(
    cyto: Cyto, toy: ToyServices, tmp_path: Path
) -> None:
    for name, content in (("sure", [255, 40]), ("odd", [150, 130])):
        (tmp_path / f"{name}.png").write_bytes(bytes(content))
    paths = [tmp_path / "odd.png", tmp_path / "sure.png"]
    asked = ("--class-priors", "blast=0.3,mono=0.7", "--coverage", 0.8, "--top-k", 2)
    code, out, _ = cyto("classify", *paths, *asked)
    assert code == 0 and "set at 80 %" in out and "unknown-class near-boundary" in out
    options = toy.classifier.options[0]
    assert dict(options.class_priors) == {"blast": 0.3, "mono": 0.7}
    assert (options.coverage, options.top_k, options.answer_each) == (0.8, 2, True)
    _, out, _ = cyto("classify", *paths, *asked, "--json")
    body = json.loads(out)
    assert body["calibrated"] and body["prior_source"] == "request" and body["coverage"] == 0.8
    odd, sure = body["images"]
    assert odd["review_reasons"] == ["unknown_class", "near_boundary"] and odd["needs_review"]
    assert sure["prediction_set"] == ["blast"] and not sure["needs_review"]
    assert sure["out_of_distribution_score"] == 0.4 and len(sure["image_sha256"]) == 64
    _, out, _ = cyto("classify", *paths, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["prediction_set"] == "blast mono" and rows[0]["needs_review"] == "true"
    assert rows[1]["out_of_distribution_score"] == "0.4000"


@pytest.mark.parametrize("text", ["blast", "blast=", "=0.5", "blast=0.5,blast=0.5", "blast=x"])
def test_malformed_shares_are_refused_before_any_call(
    text: str, cyto: Cyto, toy: ToyServices, cells: Path
) -> None:
    code, _, err = cyto("classify", cells, "--class-priors", text)
    assert code == 2 and "--class-priors" in err
    assert toy.classifier.batch_sizes == []


def test_shares_that_the_service_refuses_name_the_option(cyto: Cyto, cells: Path) -> None:
    code, _, err = cyto("classify", cells, "--class-priors", "blasts=1")
    assert code == 1 and "--class-priors" in err and "'blasts'" in err


def test_evaluate_prints_tables_or_json(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "text.png").write_bytes(bytes([255, 220, 9]))
    file = tmp_path / "figures.json"
    code, out, _ = cyto("evaluate", cells, "--non-cells", strange, "--out", file)
    assert code == 0 and "Not a medical device" in out
    assert "macro-F1" in out and "in the set at 90 %" in out and "calibrated" in out
    figures = json.loads(file.read_text())
    assert figures["non_cell_auc"] == 1.0 and figures["accuracy"]["value"] == 1.0
    code, out, _ = cyto("evaluate", cells, "--non-cells", strange, "--json")
    assert code == 0 and json.loads(out) == figures
    toy.classifier.is_of_earlier_release = True
    code, out, _ = cyto("evaluate", cells)
    assert code == 0 and "not calibrated" in out and "in the set" not in out


def test_a_differential_count_is_read_from_a_file(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path
) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("class,count\nblast,30\nmono,90\n")
    code, out, _ = cyto("classify", cells, "--csv", "--class-priors", counts)
    assert code == 0
    assert toy.classifier.options[-1].class_priors == {"blast": 0.25, "mono": 0.75}
    row = next(csv.DictReader(io.StringIO(out)))
    assert row["prior_source"] == "request" and row["runtime"] == "torch"
    assert row["coverage"] == "0.9" and row["calibrated"] == "true"
