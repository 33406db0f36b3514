"""Class shares on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from cytosynth.cli.class_shares import class_shares


def test_pairs_are_taken_as_they_are() -> None:
    assert class_shares("") == {}
    assert class_shares("neutrophil=0.6, monocyte=0.4,") == {"neutrophil": 0.6, "monocyte": 0.4}


@pytest.mark.parametrize(
    "content",
    [
        "class,count\nneutrophil,60\nmonocyte,20\n",
        "neutrophil;60\nmonocyte;20\n",
        "\ufeffcell,n,remark\r\nneutrophil,60,fine\r\n\r\nmonocyte,20,\r\n",
    ],
)
def test_counts_of_a_file_become_shares(tmp_path: Path, content: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(content, newline="")
    assert class_shares(str(path)) == {"neutrophil": 0.75, "monocyte": 0.25}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("neutrophil=many", "neutrophil=many"),
        ("neutrophil=0.5,neutrophil=0.5", "given twice"),
        ("neutrophil=nan", "neutrophil=nan"),
        ("nowhere.csv", "nowhere.csv"),
    ],
)
def test_what_is_no_share_is_named(text: str, named: str) -> None:
    with pytest.raises(typer.BadParameter, match=named):
        class_shares(text)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("neutrophil,60\nmonocyte,some\n", "monocyte,some"),
        ("neutrophil,-1\n", "neutrophil,-1"),
        ("neutrophil,0\n", "counts no cell"),
        ("", "counts no cell"),
        ("neutrophil\n", "neutrophil"),
    ],
)
def test_a_file_that_is_no_count_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(content)
    with pytest.raises(typer.BadParameter, match=named):
        class_shares(str(path))
