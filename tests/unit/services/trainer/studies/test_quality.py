"""A study's image quality: the mean over its replicates, wherever told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.trainer.reports.page import page_environment
from services.trainer.studies.quality import MEASURES, quality_rows, study_quality

SPACE = {"name": "cyto-clip", "revision": "abc"}


def row(value: float | None, n_real: int = 30, **other: Any) -> dict[str, Any]:
    spread = None if value is None else [value - 1, value + 1]
    return {
        "n_real": n_real,
        "n_synthetic": 40,
        "num_features": 8,
        **dict.fromkeys(MEASURES, value),
        "kid_interval": spread,
        "cmmd_interval": spread,
        "fid_comparable": True,
        "note": "a note",
    } | other


def draw(value: float, **by_class: dict[str, Any]) -> dict[str, Any]:
    return {
        "overall": row(value),
        "per_class": by_class,
        "real_against_real": {
            "overall": row(0.5, 15),
            "per_class": {c: row(0.25, 5) for c in by_class},
        },
    }


def test_figures_are_means_over_the_replicates_that_have_them() -> None:
    draws = [
        draw(2.0, monocyte=row(3.0), basophil=row(None, 1)),
        draw(4.0, monocyte=row(5.0, 31, fid_comparable=False, note="few"), basophil=row(7.0)),
    ]
    found = study_quality(draws, SPACE)
    json.dumps(found, allow_nan=False)
    assert found["feature_space"] == SPACE and found["num_draws"] == 2
    kid = found["overall"]["kid"]
    assert (kid["mean"], kid["num_draws"], kid["interval"]) == (3.0, 2, [2.0, 4.0])
    assert kid["sd"] == pytest.approx(2**0.5)
    assert "interval" not in found["overall"]["fid"]
    monocyte, basophil = found["per_class"]["monocyte"], found["per_class"]["basophil"]
    assert monocyte["n_real"] == [30, 31]
    assert monocyte["fid_comparable"] is False and monocyte["notes"] == ["a note", "few"]
    assert basophil["recall"] == {"mean": 7.0, "sd": None, "num_draws": 1}
    assert basophil["kid"]["interval"] == [6.0, 8.0]
    assert found["real_against_real"]["per_class"]["basophil"]["cmmd"]["mean"] == 0.25


def test_a_class_that_one_replicate_lacks_has_the_figures_of_the_others() -> None:
    found = study_quality([draw(2.0), draw(4.0, monocyte=row(5.0))], SPACE)
    assert found["per_class"]["monocyte"]["fid"] == {"mean": 5.0, "sd": None, "num_draws": 1}
    with pytest.raises(ValueError, match="at least one replicate"):
        study_quality([], SPACE)


def test_the_table_has_what_the_report_says_and_no_row_without_a_value() -> None:
    quality = study_quality([draw(2.0, monocyte=row(3.0), basophil=row(None, 1))], SPACE)
    rows = list(quality_rows(quality))
    assert ("cyto-clip", "synthetic", "kid", 2.0, 1.0, 3.0) in rows
    assert ("cyto-clip", "synthetic", "recall:monocyte", 3.0, "", "") in rows
    assert ("cyto-clip", "real_against_real", "kid:basophil", 0.25, -0.75, 1.25) in rows
    assert not any(arm == "synthetic" and "basophil" in metric for _, arm, metric, *_ in rows)
    assert len(rows) == 7 * (2 + 3)


def test_the_page_shows_every_row_and_marks_fid_that_is_not_comparable() -> None:
    basophil = row(None, 1, note="too few")
    monocyte = row(3.0, fid_comparable=False)
    draws = [draw(0.0124, monocyte=monocyte, basophil=basophil), draw(-0.02, monocyte=monocyte)]
    quality = study_quality(draws, SPACE)
    page = page_environment().get_template("quality.html.j2").render(report={"quality": quality})
    shown = " ".join(page.split())
    texts = ("cyto-clip", "2 replicates", "Real against real", "monocyte", "basophil", "a note")
    assert all(text in shown for text in texts)
    assert "<td>−0.0038<small>" in shown, "KID of 0.0124 and −0.02 on average"
    assert shown.count("not comparable") == 1
    assert shown.count("<td>–</td>") == len(MEASURES), "a dash for each value that basophil lacks"
    assert "None" not in shown and "http" not in shown
