"""Folders that the server reads like uploads, and only where allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cytosynth.client.errors import CytosynthError
from cytosynth.client.image_tree import read_image_tree
from services.common.errors import InvalidArgument, PermissionDenied
from services.trainer.datasets.import_folder import import_folder
from services.trainer.datasets.splitting import SplitSettings
from services.trainer.datasets.upload import DatasetHeader, DatasetUpload
from tests.support.cells import png

HEADER = DatasetHeader(display_name="ward 7", split=SplitSettings(shots=3), center_crop=1.0)


def write_folder(folder: Path) -> None:
    for number in range(8):
        path = folder / ("basophil", "monocyte")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (folder / "README.md").write_text("about")
    (folder / "basophil" / ".hidden.png").write_text("no image")
    rows = [f"{('basophil', 'monocyte')[n % 2]}/{n}.png,p{n // 4}" for n in range(8)]
    (folder / "labels.csv").write_text("\n".join(["file,patient_id", *rows]))


def test_import_reads_the_tenants_drop_folder(store, settings, tmp_path: Path) -> None:
    write_folder(tmp_path / "store" / "imports" / "local" / "cells")
    uri = f"{settings.store_uri}/imports/local/cells"
    body = import_folder(store, "local", uri, HEADER, settings)["body"]
    assert len(body["images"]) == 8
    assert {each["patient_id"] for each in body["images"].values()} == {"p0", "p1"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file,patientID\nbasophil/0.png,p0\n", "'patientID'; rename it to patient_id"),
        (b"image,patient_id\nbasophil/0.png,p0\n", "'file' is missing"),
        (b"file,patient_id\nbasophil/9.png,p0\n", "'basophil/9.png' is not among the images"),
        (b"file,patient_id\nbasophil/0.png,a\nbasophil/0.png,b\n", "is of 'b' here and of 'a'"),
        ("file,patient_id\nbasophil/0.png,Müller\n".encode("latin-1"), "is not UTF-8"),
        (b'file,patient_id\n"' + b"x" * 200_000, "is not CSV"),
    ],
)
def test_patients_are_not_lost_with_the_table(
    store, settings, tmp_path: Path, table: bytes, message: str
) -> None:
    folder = tmp_path / "store" / "imports" / "local" / "cells"
    write_folder(folder)
    (folder / "labels.csv").write_bytes(table)
    uri = f"{settings.store_uri}/imports/local/cells"
    with pytest.raises(InvalidArgument, match=message) as caught:
        import_folder(store, "local", uri, HEADER, settings)
    assert caught.value.field.startswith("labels.csv")


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc",
        "{store}/imports/other/cells",
        "{store}/tenants/other/datasets",
        "{store}/imports/local/../other/cells",
        "{store}/imports/localx",
        "zip://x::file:///etc",
        "/etc",
        "http://10.0.0.1/latest",
        "",
    ],
)
def test_import_stays_inside_what_is_allowed(store, settings, tmp_path: Path, uri: str) -> None:
    write_folder(tmp_path / "store" / "imports" / "other" / "cells")
    with pytest.raises((PermissionDenied, InvalidArgument)) as caught:
        import_folder(store, "local", uri.replace("{store}", settings.store_uri), HEADER, settings)
    assert "uri" in caught.value.message


def test_import_follows_no_link_out(store, settings, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "imports" / "local" / "cells"
    write_folder(folder)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(77))
    (folder / "basophil" / "link.png").symlink_to(secret)
    (folder / "lymphocyte").symlink_to(tmp_path)
    uri = f"{settings.store_uri}/imports/local"
    body = import_folder(store, "local", f"{uri}/cells", HEADER, settings)["body"]
    assert len(body["images"]) == 8
    write_folder(tmp_path / "elsewhere")
    (tmp_path / "store" / "imports" / "local" / "way-out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDenied):
        import_folder(store, "local", f"{uri}/way-out", HEADER, settings)


def test_import_of_an_empty_folder_says_what_is_expected(store, settings) -> None:
    with pytest.raises(InvalidArgument, match="<class>/<image>"):
        import_folder(store, "local", f"{settings.store_uri}/imports/local/x", HEADER, settings)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """The caller's drop folder with four images of each of two classes."""
    folder = tmp_path / "store" / "imports" / "local" / "cells"
    for number in range(8):
        path = folder / ("BAS", "Band neutrophil")[number % 2] / f"p{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return folder


def windows_table(cells: Path) -> None:
    rows = [f"D:\\lab\\{path.relative_to(cells)}".replace("/", "\\") for path in images(cells)]
    lines = "\r\n".join(f"{row};p{number % 3}" for number, row in enumerate(rows))
    (cells / "Labels.csv").write_bytes(f"\ufefffile;patient_id\r\n{lines}".encode())


def unknown_patients(cells: Path) -> None:
    lines = "".join(f"{path.relative_to(cells)},N/A\n" for path in images(cells))
    (cells / "labels.csv").write_text(f"file,patient_id\n{lines}")


def awkward_files(cells: Path) -> None:
    for name in ("._0.png", "Thumbs.db", "notes.docx", "sizes.csv"):
        (cells / "BAS" / name).write_bytes(b"x")
    (cells / "BAS" / os.fsdecode(b"M\xfc\nller.png")).write_bytes(png(77))
    (cells / "BAS" / "slide.png").mkdir()
    (cells / "BAS" / "slide.png" / "1.PNG").write_bytes(png(78))
    (cells / "stray.png").write_bytes(png(79))
    (cells / "empty").mkdir()


def images(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


@pytest.mark.parametrize(
    "change", [lambda cells: None, windows_table, unknown_patients, awkward_files]
)
def test_import_reads_what_an_upload_reads(store, settings, cells: Path, change) -> None:
    change(cells)
    uri = f"{settings.store_uri}/imports/local/cells"
    imported = import_folder(store, "local", uri, HEADER, settings)["body"]
    tree = read_image_tree(cells)
    with DatasetUpload(store, "local", HEADER, settings, notices=tree.notices) as upload:
        for image in tree.images:
            upload.add(image.class_id, image.file_name, image.patient_id, image.path.read_bytes())
        uploaded = upload.commit(len(tree.images))["body"]
    assert imported == uploaded
    assert sorted(imported["classes"]) == ["basophil", "neutrophil_band"]
    assert len(imported["images"]) == (10 if change is awkward_files else 8)
    known = {each["patient_id"] for each in imported["images"].values()}
    assert known == ({"p0", "p1", "p2"} if change is windows_table else {""})


def split_above(cells: Path) -> None:
    (cells / "train").mkdir()
    for name in ("BAS", "Band neutrophil"):
        (cells / name).rename(cells / "train" / name)


def patients_elsewhere(cells: Path) -> None:
    (cells / "metadata.tsv").write_text("image\tpatient\n1.png\tp1\n")


def foreign_rows(cells: Path) -> None:
    (cells / "labels.csv").write_text("file,patient_id\nblast/1.png,p1\nblast/2.png,p1\n")


def two_patients(cells: Path) -> None:
    row = images(cells)[0].relative_to(cells)
    (cells / "labels.csv").write_text(f"file,patient_id\n{row},p1\n{row},p2\n")


def no_class(cells: Path) -> None:
    (cells / "BAS").rename(cells / "4blast")


@pytest.mark.parametrize(
    "change", [split_above, patients_elsewhere, foreign_rows, two_patients, no_class]
)
def test_import_refuses_what_an_upload_refuses(store, settings, cells: Path, change) -> None:
    change(cells)
    uri = f"{settings.store_uri}/imports/local/cells"
    with pytest.raises(InvalidArgument) as server:
        import_folder(store, "local", uri, HEADER, settings)
    with pytest.raises(CytosynthError) as client:
        read_image_tree(cells)
    error = server.value
    told = [(each.field, each.description) for each in client.value.field_violations]
    assert [(error.field, error.problem), *error.further] == told
    remedy = error.remedy.replace("cytosynth import", "cytosynth upload")
    assert remedy.replace(uri, str(cells)) == client.value.remedy


def test_import_names_all_bad_images(store, settings, cells: Path) -> None:
    for path in images(cells)[:3]:
        path.write_bytes(b"text")
    uri = f"{settings.store_uri}/imports/local/cells"
    with pytest.raises(InvalidArgument, match=r"image 1 .*image 2 .*image 3 ") as caught:
        import_folder(store, "local", uri, HEADER, settings)
    assert len(caught.value.further) == 2 and caught.value.num_more == 0
