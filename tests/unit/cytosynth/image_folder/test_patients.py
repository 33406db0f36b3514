"""Rows of ``labels.csv``: images found or refused, and no patient lost."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest

from cytosynth.client.local_files import LocalFiles
from cytosynth.image_folder.patients import LabelledPath, patients_of
from cytosynth.image_folder.problems import ImageFolderError
from cytosynth.image_folder.reader import ImageFolder, read_image_folder
from cytosynth.labels_table import read_labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``BAS`` and ``monocyte`` with three images each."""
    for folder in ("BAS", "monocyte"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.png").write_bytes(f"{folder} {number}".encode())
    return tmp_path


def read(root: Path) -> ImageFolder:
    return read_image_folder(LocalFiles(root))


def patients(root: Path) -> dict[str, str]:
    return {image.path: image.patient_id for image in read(root).images if image.patient_id}


@pytest.mark.parametrize(
    "path",
    [
        "BAS/0.png",
        "./BAS/0.png",
        "BAS\\0.png",
        ".\\BAS\\0.png",
        "C:\\study\\cells\\BAS\\0.png",
        "c:/study/BAS/0.png",
        "\\\\server\\share\\BAS\\0.png",
        "/home/lab/cells/BAS/0.png",
        "cells/BAS/0.png",
        "bas/0.PNG",
    ],
)
def test_paths_of_any_machine_find_the_image(root: Path, path: str) -> None:
    other = path.replace("BAS", "monocyte").replace("bas", "monocyte")
    (root / "labels.csv").write_text(f"file,patient_id\n{path},p1\n{other},p2\n")
    assert patients(root) == {"BAS/0.png": "p1", "monocyte/0.png": "p2"}


def test_accents_match_however_they_are_composed(root: Path) -> None:
    name = unicodedata.normalize("NFD", "Zelle für 1.png")
    (root / "BAS" / name).write_bytes(b"x")
    text = unicodedata.normalize("NFC", f"file,patient_id\nBAS/{name},p1\n")
    (root / "labels.csv").write_text(text, encoding="utf-8")
    assert patients(root) == {f"BAS/{name}": "p1"}


def test_case_counts_where_it_tells_images_apart() -> None:
    images = [LabelledPath(f"blast/{name}.png", "blast", "blast") for name in ("a", "A")]
    table = read_labels(b"file,patient_id\nblast/A.png,p2\nblast/a.png,p1\n")
    assert patients_of(table, "labels.csv", images) == {"blast/a.png": "p1", "blast/A.png": "p2"}
    with pytest.raises(ImageFolderError, match="not among the images"):
        patients_of(read_labels(b"file\nblast/A.PNG\n"), "labels.csv", images)


@pytest.mark.parametrize("name", ["labels.csv", "Labels.csv", "LABELS.CSV"])
def test_the_table_is_found_in_any_case(root: Path, name: str) -> None:
    (root / name).write_text("file,patient_id\nBAS/0.png,p1\n")
    assert patients(root) == {"BAS/0.png": "p1"}
    (root / "lAbels.csv").write_text("file\n")
    with pytest.raises(ImageFolderError, match=f"holds .*{name}"):
        read(root)


def test_rows_without_image_are_an_error_that_names_the_first_and_counts_all(root: Path) -> None:
    rows = "".join(f"D:\\old\\blast\\{number}.png,p{number}\n" for number in range(2001))
    (root / "labels.csv").write_text(f"file,patient_id\n{rows}")
    start = time.perf_counter()
    with pytest.raises(ImageFolderError) as caught:
        read(root)
    assert time.perf_counter() - start < 5
    assert caught.value.num_problems == 2001
    assert "line 2: 'D:\\\\old\\\\blast\\\\0.png' is not among the images" in str(caught.value)
    assert "and 1996 more; correct or remove these 2001 rows of 2001" in str(caught.value)


def test_two_thousand_rows_of_another_machine_are_read_at_once(tmp_path: Path) -> None:
    images = [LabelledPath(f"blast/{number}.png", "blast", "blast") for number in range(20_000)]
    rows = "".join(f"C:\\a\\b\\c\\blast\\{number}.png;p{number % 9}\n" for number in range(20_000))
    start = time.perf_counter()
    found = patients_of(read_labels(f"file;patient_id\n{rows}".encode()), "labels.csv", images)
    assert time.perf_counter() - start < 5
    assert len(found) == 20_000


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("BAS/0.png,,p1\nBAS/0.png,,p2", "line 3: BAS/0.png is of 'p2' here and of 'p1' in line 2"),
        ("BAS/0.png,BAS,\nBAS/0.png,monocyte,", "line 3: .*'monocyte' here but .* folder 'BAS'"),
        ("BAS/0.png,monocyte,p1", "is 'monocyte' here but lies in the folder 'BAS'"),
        ("a/BAS/0.png,,p1\nb/BAS/1.png,,p2", "lines 2 and 3: a/BAS/0.png and b/BAS/1.png lie in"),
        ("C:\\BAS\\0.png,,p1\n/x/BAS/0.png,,p2", "is of 'p2' here and of 'p1' in line 2"),
        (",BAS,p1", "line 2: '' is not among the images"),
    ],
)
def test_rows_that_contradict_are_refused(root: Path, rows: str, message: str) -> None:
    (root / "labels.csv").write_text(f"file,class,patient_id\n{rows}\n")
    with pytest.raises(ImageFolderError, match=message):
        read(root)


def test_the_same_row_twice_and_codes_in_the_table_are_fine(root: Path) -> None:
    rows = "BAS/0.png,bas,p1\nBAS/0.png,Basophil,p1\nBAS/0.png,BAS,NA\nBAS/1.png,,N/A\n"
    (root / "labels.csv").write_text(f"file,class,patient_id\n{rows}")
    assert patients(root) == {"BAS/0.png": "p1"}
    assert read(root).notices[-2:] == (
        "labels.csv: patient_id 'NA', 'N/A' counts as an unknown patient",
        "5 images have no patient_id in labels.csv",
    )


@pytest.mark.parametrize("name", ["labels.tsv", "metadata.csv", "patients.txt", "BAS/cohort.csv"])
def test_another_table_with_patients_is_refused(root: Path, name: str) -> None:
    (root / name).write_text("image\tPatient\nBAS/0.png\tp1\n")
    with pytest.raises(ImageFolderError, match="names patients in 'Patient', and is not read") as e:
        read(root)
    assert "save it as labels.csv beside the class folders" in e.value.remedy
    (root / "labels.csv").write_text("file,patient_id\nBAS/0.png,p1\n")
    assert patients(root) == {"BAS/0.png": "p1"}


@pytest.mark.parametrize("name", ["cohort.xlsx", "old.XLS", "sizes.csv", "BAS/areas.tsv"])
def test_a_table_whose_patients_cannot_be_seen_is_told(root: Path, name: str) -> None:
    (root / name).write_bytes(b"PK\x03\x04")
    (notice,) = read(root).notices[1:]
    assert notice.startswith(f"{name} is not read; if patients stand there, save it as labels.csv")


def test_prose_beside_the_folders_is_no_table(root: Path) -> None:
    (root / "README.txt").write_text("Cells of patients, taken in 2020,\nby the laboratory.\n")
    (root / "README.md").write_text("about")
    assert read(root).notices == ("class folders read: BAS as basophil",)
