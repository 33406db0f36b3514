"""Answers of reviewers: checked, durable, none overwritten."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cytosynth.client import CytosynthError
from cytosynth.review.answers import ANSWERS_FILE, Answer, Answers, clean_reviewer, read_answer

CELLS, CLASSES = {"c1", "c2"}, ("lymphocyte", "monocyte")
GOOD = {
    "reviewer": "Ada",
    "cell": "c1",
    "call": "probably_real",
    "class_id": "monocyte",
    "quality": 4,
}
ROOT = Path(__file__).resolve().parents[4]


def test_an_answer_that_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from cytosynth.review.answers import Answer, Answers
answers = Answers(Path({str(tmp_path)!r}))
number = 0
while True:
    answers.keep(Answer("Ada", f"c{{number}}", "surely_real", "monocyte", 3))
    print(number, flush=True)
    number += 1
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout
        for _ in range(40):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        told = 40 + len(child.stdout.read().split(b"\n")) - 1
    with closing(Answers(tmp_path)) as answers:
        cells = [answer.cell for answer in answers.history()]
    assert len(cells) in (told, told + 1)  # one may be kept that nobody was told of
    assert cells == [f"c{number}" for number in range(len(cells))]


def test_a_second_answer_counts_and_the_first_stays_in_the_history(tmp_path: Path) -> None:
    with closing(Answers(tmp_path)) as answers:
        answers.keep(Answer("Ada", "c1", "surely_real", "monocyte", 1))
        answers.keep(Answer("Ben", "c1", "surely_synthetic", "lymphocyte", 2))
        answers.keep(Answer("Ada", "c1", "probably_synthetic", "monocyte", 5))
        assert [(a.reviewer, a.quality, a.num_given) for a in answers.history()] == [
            ("Ada", 1, 1),
            ("Ben", 2, 1),
            ("Ada", 5, 2),
        ]
        latest = answers.latest()
        assert list(latest) == ["Ada", "Ben"]
        assert latest["Ada"]["c1"].call == "probably_synthetic"
        assert latest["Ben"]["c1"].quality == 2
        assert latest["Ada"]["c1"].answered_at.endswith("+00:00")


def test_a_reviewer_is_the_same_in_any_spelling(tmp_path: Path) -> None:
    with closing(Answers(tmp_path)) as answers:
        answers.keep(Answer(clean_reviewer("  Dr.  Ada "), "c1", "surely_real", "monocyte", 1))
        answers.keep(Answer(clean_reviewer("dr. ada"), "c2", "surely_real", "monocyte", 1))
        assert list(answers.latest()) == ["Dr. Ada"]
        assert set(answers.of("DR. ADA")) == {"c1", "c2"}
        assert answers.of("Ben") == {}


@pytest.mark.parametrize("name", ["", "   ", "=1+1", "<b>", "a/b", "x" * 61, "a\nb\x00", "-a", "_"])
def test_what_is_no_pseudonym_is_refused(name: str) -> None:
    with pytest.raises(CytosynthError, match=r"reviewer.*give 1 to 60 letters"):
        clean_reviewer(name)


@pytest.mark.parametrize("name", ["A", "Zoë Müller-2", "Чехов", "r_1. x", "x" * 60])
def test_pseudonyms_may_have_letters_of_any_script(name: str) -> None:
    assert clean_reviewer(name) == name


def test_a_good_answer_is_read() -> None:
    assert read_answer(GOOD, CELLS, CLASSES) == Answer("Ada", "c1", "probably_real", "monocyte", 4)
    assert read_answer({**GOOD, "class_id": "?"}, CELLS, CLASSES).class_id == "?"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cell": "c9"}, "cell"),
        ({"cell": ["c1"]}, "cell"),
        ({"call": "real"}, "call"),
        ({"class_id": "basophil"}, "class_id"),
        ({"quality": 0}, "quality"),
        ({"quality": 6}, "quality"),
        ({"quality": 3.0}, "quality"),
        ({"quality": True}, "quality"),
        ({"quality": "3"}, "quality"),
        ({"reviewer": 7}, "reviewer"),
        ({"reviewer": ""}, "reviewer"),
        ({"origin": "real"}, "origin"),
        *(({field: None}, field) for field in GOOD),
    ],
)
def test_a_bad_field_is_named_with_a_remedy(change: dict[str, Any], field: str) -> None:
    with pytest.raises(CytosynthError) as caught:
        read_answer({**GOOD, **change}, CELLS, CLASSES)
    assert [violation.field for violation in caught.value.field_violations] == [field]
    assert caught.value.remedy


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(CytosynthError, match="is not a JSON object"):
        read_answer([GOOD], CELLS, CLASSES)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / ANSWERS_FILE).write_bytes(b"no database, and long enough to be read as one" * 30)
    with pytest.raises(CytosynthError, match=r"answers\.sqlite cannot be used"):
        Answers(tmp_path)
