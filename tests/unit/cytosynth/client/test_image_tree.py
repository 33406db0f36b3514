"""Image folders: read, or refused with all faults before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cytosynth.client import CytosynthError, read_image_tree
from cytosynth.client.image_tree import image_files
from cytosynth.image_folder.content import foreign_content


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Zellen-Ö", "rename it, for example to 'zellen_o'"),
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
        ("image,label\nblast/0.png,blast\n", "'file' is missing; columns: file, class and"),
        ("file,class\nblast/9.png,blast\n", "line 2: 'blast/9.png' is not among the images"),
        ("file,class,Patient-ID\nblast/0.png,blast,p1\n", "'Patient-ID'; rename it to patient_id"),
        ("file,class\n\xff\xfe", "labels.csv: is not UTF-8; save it as CSV in UTF-8"),
    ],
)
def test_a_table_that_contradicts_is_refused(folder: Path, table: str, message: str) -> None:
    (folder / "labels.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(CytosynthError, match=message):
        read_image_tree(folder)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cell.png").write_bytes(b"x")
    with pytest.raises(CytosynthError, match="lay it out as <class>/<image>"):
        read_image_tree(tmp_path)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """``monocyte`` with five files that may be images."""
    (tmp_path / "monocyte").mkdir()
    for number in range(5):
        (tmp_path / "monocyte" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def test_all_bad_files_are_named_in_one_run(cells: Path, monkeypatch) -> None:
    monocyte = cells / "monocyte"
    (monocyte / "0.png").write_bytes(b"")
    (monocyte / "1.png").write_bytes(b"not an image")
    with (monocyte / "2.png").open("wb") as file:
        file.truncate(20_000_001)
    opened = Path.open

    def refuse(path: Path, *arguments: str):
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CytosynthError) as caught:
        read_image_tree(cells)
    assert [(each.field, each.description) for each in caught.value.field_violations] == [
        ("monocyte/0.png", "the file is empty"),
        ("monocyte/1.png", "is not an image that can be read, but text"),
        ("monocyte/2.png", "20.0 MB is over the limit of 20 MB"),
        ("monocyte/3.png", "cannot be read: Permission denied"),
    ]
    assert caught.value.remedy == (
        "replace or remove it; send still PNG, JPEG, WebP, TIFF or BMP images alone; "
        "crop it to the cell or save it smaller; give read permission"
    )


def test_many_bad_files_are_counted(cells: Path) -> None:
    for number in range(400):
        (cells / "monocyte" / f"x{number:03}.png").write_bytes(b"")
    with pytest.raises(CytosynthError, match=r"monocyte/x004.png: the file is empty; and 395 more"):
        read_image_tree(cells)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"GIF89a", "a GIF"),
        (b"PK\x03\x04word", "a ZIP archive or Office document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (b"\x00" * 128 + b"DICM", "DICOM"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"file,class\r\n", "text"),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"\xff\xd8\xff\xe0", ""),
        (b"RIFF\x10\x00\x00\x00WEBP", ""),
        (b"II*\x00", ""),
        (b"BM text", ""),
        (b"", ""),
    ],
)
def test_what_a_file_really_is_can_be_told(head: bytes, kind: str) -> None:
    assert foreign_content(head) == kind


def test_files_to_classify_are_found_below_folders(cells: Path) -> None:
    (cells / "loose.png").write_bytes(b"x")
    (cells / "monocyte/.hidden.png").write_bytes(b"x")
    (cells / "monocyte/notes.txt").write_bytes(b"x")
    (cells / "table.csv").write_bytes(b"x")
    odd = cells / os.fsdecode(b"\xff.png")
    odd.write_bytes(b"x")
    found, notices = image_files([cells, cells / "monocyte/0.png"])
    assert set(found) == {*(cells / "monocyte").glob("?.png"), cells / "loose.png", odd}
    assert len(found) == 8
    assert notices == [
        f"{cells}: monocyte/.hidden.png: left out, hidden or a file of the system",
        f"{cells}: 2 left out, not an image by its name: monocyte/notes.txt, table.csv",
    ]


def test_a_table_around_the_folder_is_told(cells: Path) -> None:
    (cells / "labels.csv").write_text("file,patient_id\ntrain/monocyte/0.png,p1\n")
    (cells / "train").mkdir()
    (cells / "monocyte").rename(cells / "train/monocyte")
    (notice,) = read_image_tree(cells / "train").notices
    assert notice.startswith(f"{cells / 'labels.csv'} is not read; copy the rows of this folder")
    (cells / "labels.csv").rename(cells / "train/labels.csv")
    assert {image.patient_id for image in read_image_tree(cells / "train").images} == {"p1", ""}
