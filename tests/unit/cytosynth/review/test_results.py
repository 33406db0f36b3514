"""Figures of a review against values worked out by hand."""

from __future__ import annotations

import csv
import json
import math
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from cytosynth.client import CytosynthError
from cytosynth.review.agreement import (
    NUM_RESAMPLES,
    auc,
    cohen_kappa,
    interval,
    resample,
    resampled_aucs,
    resampled_kappas,
)
from cytosynth.review.answers import CALLS, Answer, Answers
from cytosynth.review.mix import Cell, Mix, MixOptions
from cytosynth.review.report import write_review
from cytosynth.review.results import labels_of, review_results
from cytosynth.review.study_section import BEGIN, END, add_to_study
from tests.support.reviews import small_mix

# Two classes a, b; four real cells r0 … r3 (a a b b), four synthetic ones s0 … s3 (a a b b).
MIX = Mix(
    MixOptions(2),
    32,
    ("a", "b"),
    tuple(
        Cell(f"{origin[0]}{number}", origin, "aabb"[number], f"{number}.png", "", "")
        for origin in ("real", "synthetic")
        for number in range(4)
    ),
)
IDS = [cell.id for cell in MIX.cells]


def _answers(name: str, grades: str, classes: str, qualities: str) -> dict[str, Answer]:
    """Answers written as eight digits or letters, blank for an unlabelled cell."""
    return {
        id: Answer(name, id, CALLS[int(grade)], given, int(quality))
        for id, grade, given, quality in zip(IDS, grades, classes, qualities, strict=True)
        if grade != " "
    }


ADA = _answers("Ada", "01203213", "abbbaaaa", "54345221")


def test_figures_of_one_reviewer() -> None:
    found = review_results(MIX, labels_of(MIX, {"Ada": ADA}))
    (figures,) = found["reviewers"]
    real, synthetic = figures["by_origin"]["real"], figures["by_origin"]["synthetic"]
    # Of 16 pairs of a real and a synthetic cell 13 are in order and 2 are ties.
    assert figures["auc"] == pytest.approx(14 / 16)
    assert figures["call_accuracy"] == pytest.approx(6 / 8)
    assert real["called_synthetic"] == 1 / 4 and synthetic["called_synthetic"] == 3 / 4
    # Real: 3 of 4 agree, by chance (2·1 + 2·3)/16 = 1/2. Synthetic: all called a.
    assert real["class_agreement"] == 3 / 4 and real["kappa"] == pytest.approx(0.5)
    assert real["confusion"]["counts"] == [[1, 1, 0], [0, 2, 0]]
    assert real["confusion"]["given_class_ids"] == ["a", "b", "?"]
    assert synthetic["confusion"]["counts"] == [[2, 0, 0], [2, 0, 0]]
    assert synthetic["kappa"] == pytest.approx(0)
    assert real["quality"] == 4 and synthetic["quality"] == 2.5
    assert real["calls"] == {
        "surely_real": 2, "probably_real": 1, "probably_synthetic": 1, "surely_synthetic": 0,
    }  # fmt: skip
    assert synthetic["qualities"] == {"1": 1, "2": 2, "3": 0, "4": 0, "5": 1}
    for name in ("auc", "call_accuracy"):
        low, high = figures[f"{name}_interval"]
        assert low <= figures[name] <= high
    assert found["overall"] == {k: v for k, v in figures.items() if k != "reviewer"}
    assert found["between_reviewers"] == []


def test_two_reviewers_together_and_against_each_other() -> None:
    ben = _answers("Ben", "0 2 3 13", "a b b aa", "5 4 5 11")
    found = review_results(MIX, labels_of(MIX, {"Ada": ADA, "Ben": ben}))
    # Ben: real 0, 2; synthetic 3, 1, 3: five of six pairs in order.
    assert found["reviewers"][1]["num_labelled"] == 5
    assert found["reviewers"][1]["auc"] == pytest.approx(5 / 6)
    assert found["overall"]["auc"] == pytest.approx((14 / 16 + 5 / 6) / 2)
    assert found["overall"]["num_labelled"] == 13 and found["overall"]["num_cells"] == 8
    assert found["overall"]["by_origin"]["real"]["quality"] == pytest.approx(25 / 6)
    (pair,) = found["between_reviewers"]
    assert pair["reviewers"] == ["Ada", "Ben"] and pair["num_common"] == 5
    # r0 aa, r2 bb | s0 ab, s2 aa, s3 aa: 4 of 5 agree; by chance (4·3 + 1·2)/25.
    assert pair["class_kappa"] == pytest.approx((4 / 5 - 14 / 25) / (1 - 14 / 25))
    assert pair["class_kappa_real"] == 1
    assert pair["class_kappa_synthetic"] == pytest.approx(0)
    assert pair["call_kappa"] == 1


def test_what_is_undefined_is_none_and_never_nan() -> None:
    only_real = _answers("Ada", "0       ", "a       ", "3       ")
    alike = _answers("Ben", "0   0   ", "a   a   ", "3   3   ")
    found = review_results(MIX, labels_of(MIX, {"Ada": only_real, "Ben": alike}))
    ada, ben = found["reviewers"]
    assert ada["auc"] is None and ada["auc_interval"] is None
    assert ada["by_origin"]["real"]["kappa"] is None
    assert ada["by_origin"]["synthetic"]["quality"] is None
    assert ben["auc"] == 0.5 and ben["auc_interval"] is None  # one cell of each origin
    assert ben["by_origin"]["synthetic"]["class_agreement"] == 1
    assert found["overall"]["auc"] == 0.5
    assert found["between_reviewers"][0]["call_kappa"] is None
    json.dumps(found, allow_nan=False)


def test_answers_that_fit_no_mix_are_refused() -> None:
    with pytest.raises(CytosynthError, match="no cell has been labelled yet"):
        labels_of(MIX, {})
    stray = {"x": Answer("Ada", "x", CALLS[0], "a", 1)}
    with pytest.raises(CytosynthError, match="cells of another mix"):
        labels_of(MIX, {"Ada": stray})


def test_resampled_figures_are_those_of_the_resampled_answers() -> None:
    rng = np.random.default_rng(3)
    synthetic = np.arange(30) % 2 == 1
    grades = rng.integers(0, 4, 30) // (1 + ~synthetic)
    left, right = rng.choice(list("abc"), 30), rng.choice(list("abc"), 30)
    weights = resample(synthetic.astype(np.int64))
    assert weights.shape == (NUM_RESAMPLES, 30)
    assert set(weights[:, synthetic].sum(axis=1)) == {15.0}
    aucs = resampled_aucs(synthetic, grades, weights)
    kappas = resampled_kappas(list(left), list(right), weights)
    for row in (0, 1, 500):
        again = np.repeat(np.arange(30), weights[row].astype(int))
        assert aucs[row] == pytest.approx(roc_auc_score(synthetic[again], grades[again]))
        assert kappas[row] == pytest.approx(cohen_kappa_score(left[again], right[again]))
    low, high = interval(aucs, 30) or (math.nan, math.nan)
    assert low < (auc(synthetic, grades) or 0) < high
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None and cohen_kappa([], []) is None


def _reviewed(root: Path) -> Path:
    """A review: Ada found every cell out, Ben took all for real."""
    mix, out = small_mix(root)
    with closing(Answers(out)) as answers:
        for cell in mix.cells:
            right = CALLS[3] if cell.origin == "synthetic" else CALLS[0]
            answers.keep(Answer("Ada", cell.id, right, cell.class_id, 4))
            answers.keep(Answer("Ben", cell.id, CALLS[1], "?", 2))
            answers.keep(Answer("Ben", cell.id, CALLS[1], "?", 3))
    return out


def test_a_report_is_written_as_json_csv_and_a_page_that_fetches_nothing(tmp_path: Path) -> None:
    out = _reviewed(tmp_path)
    written = write_review(out)
    found = json.loads((out / "review.json").read_text())
    assert found == written.results
    assert [r["auc"] for r in found["reviewers"]] == [1.0, 0.5] and found["overall"]["auc"] == 0.75
    rows = list(csv.DictReader((out / "review.csv").open()))
    assert len(rows) == 2 * found["mix"]["num_cells"]
    assert [int(row["position"]) for row in rows[:8]] == list(range(1, 9))
    assert {row["num_given"] for row in rows if row["reviewer"] == "Ben"} == {"2"}
    assert {row["quality"] for row in rows if row["reviewer"] == "Ben"} == {"3"}
    page = (out / "review.html").read_text()
    assert (
        "default-src 'none'" in page
        and "http:" not in page
        and "https:" not in page
        and "<script" not in page
    )
    words = re.sub(r'src="data:[^"]+"', "", page)
    assert "None" not in words and "nan" not in words.lower() and "n/a" in words


def test_a_review_goes_into_the_report_of_a_study_and_is_replaced_there(tmp_path: Path) -> None:
    written = write_review(_reviewed(tmp_path))
    study = tmp_path / "study"
    study.mkdir()
    (study / "report.json").write_text('{"title": "T", "arms": {}}')
    (study / "report.html").write_text(f"<main>before {BEGIN} after</main>")
    add_to_study(study, written.results, written.section)
    once = (study / "report.html").read_text()
    assert once.count(BEGIN) == once.count(END) == 1 and once.count('id="review"') == 1
    assert once.startswith("<main>before ") and once.endswith(f"{END} after</main>")
    add_to_study(study, written.results, written.section.replace("Blinded review", "Again"))
    twice = (study / "report.html").read_text()
    assert "<h2>Again</h2>" in twice and "<h2>Blinded review" not in twice
    assert twice.count('id="review"') == 1 and twice.endswith(" after</main>")
    report = json.loads((study / "report.json").read_text())
    assert report["title"] == "T" and report["review"] == written.results


def test_a_report_without_a_place_for_a_review_is_left_as_it_is(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    with pytest.raises(CytosynthError, match=r"holds no study \(report\.json is missing\)"):
        add_to_study(study, {}, "")
    (study / "report.json").write_text("{}")
    (study / "report.html").write_text("<main></main>")
    with pytest.raises(CytosynthError, match="has no place for a review"):
        add_to_study(study, {"a": 1}, "section")
    (study / "report.json").write_text("[]")
    with pytest.raises(CytosynthError, match="is damaged"):
        add_to_study(study, {"a": 1}, "section")
    assert (study / "report.json").read_text() == "[]"
    assert (study / "report.html").read_text() == "<main></main>"
