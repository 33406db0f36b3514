"""Replaced phrases and long docstrings are found, and ordinary English is not."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tools import words

PAGE = PurePosixPath("docs/page.md")
MODULE = PurePosixPath("services/module.py")
TWELVE, TWENTY_FIVE = "word " * 11 + "end.", "word " * 24 + "end."


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


@pytest.mark.parametrize(
    ("docstring", "problem"),
    [
        (f"One {TWELVE}", "begin with at most 12 words"),
        ("Counts cells", "end the first line with a full stop"),
        (f"Counts cells.\n\n    One {TWENTY_FIVE}", "26 words, at most 25 in a sentence"),
        (f"Counts cells.\n\n    Doe et al. 2020 {TWENTY_FIVE}", "29 words"),
        (f"Counts cells.\n\n    Args:\n        cells: One {TWENTY_FIVE}", "26 words"),
    ],
)
def test_a_long_docstring_is_found_with_its_line(docstring: str, problem: str) -> None:
    text = f'import cells\n\n\ndef count():\n    """{docstring}\n    """\n'
    (found,) = words.docstring_problems({MODULE: text})
    assert found.startswith("services/module.py:5: ") and problem in found


@pytest.mark.parametrize(
    "docstring",
    [
        TWELVE,
        f"Counts cells.\n\n{TWENTY_FIVE} {TWENTY_FIVE}",
        f"Counts cells.\n\n{TWENTY_FIVE[:-1]}: {TWENTY_FIVE}",
        f"Counts cells.\n\n    python -m count {TWENTY_FIVE}",
    ],
)
def test_a_docstring_of_short_sentences_is_no_problem(docstring: str) -> None:
    assert words.docstring_problems({MODULE: f'"""{docstring}"""\n'}) == []


@pytest.mark.parametrize(
    "path",
    ["cytosynth/v1/job_pb2.py", "cytosynth/v1/job_pb2_grpc.py", "m/versions/0001.py", "a.sh"],
)
def test_docstrings_of_generated_files_are_not_read(path: str) -> None:
    assert words.docstring_problems({PurePosixPath(path): f'"""One {TWELVE}"""'}) == []
