"""Awkward files: odd names, links, hidden and system files, image-named folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cytosynth.client.local_files import LocalFiles
from cytosynth.image_folder.problems import MAX_FILE_NAME, ImageFolderError, printable
from cytosynth.image_folder.reader import ImageFolder, read_image_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``monocyte`` with two images."""
    (tmp_path / "monocyte").mkdir()
    for number in range(2):
        (tmp_path / "monocyte" / f"{number}.png").write_bytes(b"x")
    return tmp_path


def read(root: Path) -> ImageFolder:
    return read_image_folder(LocalFiles(root))


def names(root: Path) -> list[str]:
    return [image.file_name for image in read(root).images]


def test_files_of_the_system_and_hidden_ones_are_counted(root: Path) -> None:
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "monocyte" / name).write_bytes(b"x")
    (root / "__MACOSX/monocyte").mkdir(parents=True)
    (root / "__MACOSX/monocyte/._0.png").write_bytes(b"x")
    (root / ".git").mkdir()
    found = read(root)
    assert len(found.images) == 2
    assert found.notices == (
        "6 left out, hidden or a file of the system: .git, __MACOSX, monocyte/.DS_Store, "
        "monocyte/._0.png, monocyte/Thumbs.db and 1 more",
    )


def test_what_is_not_an_image_by_its_name_is_counted(root: Path) -> None:
    for number in range(7):
        (root / "monocyte" / f"{number}.nd2").write_bytes(b"x")
    (root / "stray.png").write_bytes(b"x")
    (root / "empty").mkdir()
    assert read(root).notices == (
        "7 left out, not an image by its name: monocyte/0.nd2, monocyte/1.nd2, monocyte/2.nd2, "
        "monocyte/3.nd2, monocyte/4.nd2 and 2 more",
        "stray.png: left out, it lies in no class folder",
        "empty: left out, the class folder holds no images",
    )


def test_a_folder_named_like_an_image_is_a_folder(root: Path) -> None:
    (root / "monocyte" / "slide.png").mkdir()
    (root / "monocyte" / "slide.png" / "1.tif").write_bytes(b"x")
    assert names(root) == ["monocyte/0.png", "monocyte/1.png", "monocyte/slide.png/1.tif"]


@pytest.mark.skipif(sys.platform != "linux", reason="file systems there only take Unicode")
def test_a_name_that_is_not_utf8_is_read_and_shown_escaped(root: Path) -> None:
    odd = os.fsencode(root) + b"/monocyte/M\xfcller.png"
    Path(os.fsdecode(odd)).write_bytes(b"latin")
    (image,) = (each for each in read(root).images if "ller" in each.path)
    assert image.file_name == "monocyte/M\\udcfcller.png"
    assert (root / image.path).read_bytes() == b"latin"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("a\tb\x1b[31m", "a\\tb\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("é中", "é中"),
    ],
)
def test_names_cannot_forge_lines_or_colours(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_an_over_long_path_keeps_its_end(root: Path) -> None:
    folder = root / "monocyte" / "/".join(["d" * 200] * 3)
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"x")
    long = [name for name in names(root) if name.startswith("…")]
    assert len(long) == 1 and len(long[0]) == MAX_FILE_NAME and long[0].endswith("/x.png")


def test_links_are_followed_without_a_loop(root: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "7.png").write_bytes(b"x")
    (root / "monocyte/linked.png").symlink_to(elsewhere / "7.png")
    (root / "monocyte/broken.png").symlink_to(elsewhere / "none.png")
    (root / "monocyte/itself.png").symlink_to(root / "monocyte/itself.png")
    (root / "monocyte/folder").symlink_to(elsewhere)
    (root / "monocyte/up").symlink_to(root)
    (root / "basophil").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    found = read(root)
    assert [image.path for image in found.images] == [
        "basophil/7.png",
        "monocyte/0.png",
        "monocyte/1.png",
        "monocyte/linked.png",
    ]
    assert found.notices == (
        "5 left out, links that are not followed: loop, monocyte/broken.png, "
        "monocyte/folder, monocyte/itself.png, monocyte/up",
    )


def test_folders_that_cannot_be_listed_are_all_named(root: Path) -> None:
    class Closed(LocalFiles):
        def entries(self, path: str):
            if path in ("basophil", "blast"):
                raise PermissionError(13, "Permission denied")
            return super().entries(path)

    for name in ("basophil", "blast"):
        (root / name).mkdir()
    with pytest.raises(ImageFolderError) as caught:
        read_image_folder(Closed(root))
    assert str(caught.value).startswith(
        "basophil: cannot be listed; blast: cannot be listed; give read permission"
    )
