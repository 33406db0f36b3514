"""Which folders are classes: splits, wrappers, codes and display names."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cytosynth.client.local_files import LocalFiles
from cytosynth.image_folder.problems import ImageFolderError
from cytosynth.image_folder.reader import ImageFolder, read_image_folder


def tree(root: Path, *folders: str, num_images: int = 2) -> Path:
    """Images in each of the folders below ``root``."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(num_images):
            (root / folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + folder.encode())
    return root


def read(root: Path) -> ImageFolder:
    return read_image_folder(LocalFiles(root))


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        (("train", "test"), "cytosynth upload {root}/test`"),
        (("Train", "Val"), "cytosynth upload {root}/Train`"),
        (("training_set", "test-data", "validation"), "cytosynth upload {root}/test-data`"),
        (("fold1", "fold2", "fold3"), "cytosynth upload {root}/fold1`"),
        (("data/train", "data/test"), "cytosynth upload {root}/data/test`"),
    ],
)
@pytest.mark.parametrize("classes", [("basophil", "monocyte"), ("alpha", "beta")])
def test_a_split_above_the_classes_is_refused(
    tmp_path: Path, parts: tuple[str, ...], remedy: str, classes: tuple[str, ...]
) -> None:
    tree(tmp_path, *(f"{part}/{name}" for part in parts for name in classes))
    with pytest.raises(ImageFolderError, match="named like a part of a split") as caught:
        read(tmp_path)
    assert remedy.format(root=tmp_path) in caught.value.remedy
    one = read(tmp_path / parts[0])
    assert {image.class_id for image in one.images} == set(classes)


@pytest.mark.parametrize(
    ("folders", "remedy"),
    [
        (("train", "test"), "put the images into one folder per class"),
        (("basophil", "monocyte", "test"), "put the images into one folder per class"),
        (("basophil/train", "basophil/test"), "keep the images of one of them"),
        (("basophil/p1/val", "monocyte"), "keep the images of one of them"),
    ],
)
def test_a_split_without_classes_or_inside_them_is_refused(
    tmp_path: Path, folders: tuple[str, ...], remedy: str
) -> None:
    with pytest.raises(ImageFolderError, match="part of a split") as caught:
        read(tree(tmp_path, *folders))
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", ["testis", "trained_blast", "blast_test", "fold", "contest"])
def test_a_class_that_only_resembles_a_split_is_a_class(tmp_path: Path, name: str) -> None:
    assert read(tree(tmp_path, name)).images[0].class_id == name


@pytest.mark.parametrize("wrapper", ["cells", "cells/cells", "2024-05 export"])
def test_a_folder_around_the_class_folders_is_refused(tmp_path: Path, wrapper: str) -> None:
    tree(tmp_path, f"{wrapper}/BAS", f"{wrapper}/Monocytes")
    with pytest.raises(ImageFolderError, match="holds the class folders BAS, Monocytes") as caught:
        read(tmp_path)
    assert f"`cytosynth upload {shlex.quote(str(tmp_path / wrapper))}`" in caught.value.remedy


def test_a_folder_around_unknown_classes_is_told(tmp_path: Path) -> None:
    notices = read(tree(tmp_path, "cells/alpha", "cells/beta")).notices
    assert any("if these are the classes, name the folder cells instead" in n for n in notices)


def test_folders_of_patients_below_a_class_are_read_and_told(tmp_path: Path) -> None:
    found = read(tree(tmp_path, "basophil/p1", "basophil/p2", "monocyte", num_images=3))
    assert [image.class_id for image in found.images] == ["basophil"] * 6 + ["monocyte"] * 3
    assert [notice for notice in found.notices if "6 images lie in sub-folders" in notice]


def test_codes_and_display_names_become_class_ids_with_a_notice(tmp_path: Path) -> None:
    found = read(tree(tmp_path, "BAS", "LYT", "myo", "Band neutrophils", "Blast Cells"))
    assert sorted({image.class_id for image in found.images}) == [
        "basophil",
        "blast_cells",
        "lymphocyte",
        "myeloblast",
        "neutrophil_band",
    ]
    assert found.notices == (
        "class folders read: BAS as basophil, Band neutrophils as neutrophil_band, "
        "Blast Cells as blast_cells, LYT as lymphocyte, myo as myeloblast",
        "no base of this package knows blast_cells: an adapter learns such a class from these "
        "images alone, without cells of the base",
    )


def test_a_misspelled_class_gets_a_hint(tmp_path: Path) -> None:
    (notice,) = read(tree(tmp_path, "basophill", "monocyte")).notices
    assert "knows basophill (is it basophil?)" in notice


def test_all_names_that_are_no_class_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError) as caught:
        read(tree(tmp_path, "4blast", "Zellen-Ö", "basophil"))
    assert [problem.text.partition("; ")[2] for problem in caught.value.problems] == [
        "rename it, for example to 'class_4blast'",
        "rename it, for example to 'zellen_o'",
    ]


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError, match="BAS and basophil are both the class basophil"):
        read(tree(tmp_path, "BAS", "basophil"))


def test_known_classes_inside_a_class_are_told(tmp_path: Path) -> None:
    found = read(tree(tmp_path, "neutrophil/band neutrophil", "monocyte"))
    assert any("read as the class of the upper folder" in notice for notice in found.notices)
