"""Image folders are read, or refused naming what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytosynth.client import (
    CytosynthError,
    read_image_tree,
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Band Cells", "rename it, for example to 'band_cells'"),
        ("4blast", "for example to 'class_4blast'"),
    ],
)
def test_a_bad_class_folder_is_named(folder: Path, name: str, message: str) -> None:
    (folder / "mono").rename(folder / name)
    with pytest.raises(CytosynthError, match=message):
        read_image_tree(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,class\nblast/0.png,mono\n", "is 'mono' here but lies in the folder 'blast'"),
        ("file,label\nblast/0.png,blast\n", "the column 'class' is missing"),
        ("file;class;patient_id\n", "'file' is missing; columns, separated by commas"),
        ("file,class,Patient-ID\nblast/0.png,blast,p1\n", "'Patient-ID'; rename it to patient_id"),
        ("file,class\n\xff\xfe", "cannot be read as UTF-8 CSV"),
    ],
)
def test_a_table_that_contradicts_is_refused(folder: Path, table: str, message: str) -> None:
    (folder / "labels.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(CytosynthError, match=message):
        read_image_tree(folder)


def test_a_row_without_image_is_told(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,class\nblast/9.png,blast\n")
    assert "blast/9.png is not among the images" in read_image_tree(folder).notices[0]


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cell.png").write_bytes(b"x")
    with pytest.raises(CytosynthError, match="lay it out as <class>/<image>"):
        read_image_tree(tmp_path)
