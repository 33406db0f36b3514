"""Replaced phrases are found wherever people read, and ordinary English is not."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tools import words

PAGE = PurePosixPath("docs/page.md")


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("An image hangs on its seed.", "depends on"),
        ("It was learned by heart.", "memorize"),
        ("Reads strangers' image files.", "untrusted"),
        ("A stream that works for nobody.", "name who"),
        ("The bulk request gives way.", "is evicted, is preempted or yields"),
        ("Each Near-copy is withheld.", "near-duplicate"),
        ("Of late it was idle.", "recently"),
    ],
)
def test_a_replaced_phrase_is_found_with_what_to_write(line: str, instead: str) -> None:
    (problem,) = words.word_problems({PAGE: f"First.\n{line}\n"})
    assert problem.startswith("docs/page.md:2: ") and problem.endswith(f"write {instead!r}")


@pytest.mark.parametrize(
    "line",
    [
        "A marshalled message.",
        "Half of latency.",
        "The hanger on the wall.",
        "Shallow copy.",
        '"goal": "No near-copy of a training image is released"',
    ],
)
def test_ordinary_english_is_no_problem(line: str) -> None:
    assert words.word_problems({PAGE: line}) == []


def test_the_table_of_words_and_the_notebook_are_not_read(tmp_path: Path) -> None:
    names = ("CONTRIBUTING.md", "docs/lab-notebook.md", "docs/page.md", "cells.png")
    (tmp_path / "docs").mkdir()
    for name in names:
        (tmp_path / name).write_text("hangs on")
    assert set(words.prose(tmp_path, map(Path, names))) == {PAGE}
