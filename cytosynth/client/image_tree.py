"""Reads an ImageFolder tree: which files are images of which class, and of which patient."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cytosynth.client.errors import CytosynthError, invalid_argument
from cytosynth.labels_table import LABELS_FILE, PATIENT_COLUMN, LabelsError, read_labels

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
MAX_IMAGE_BYTES = 20_000_000
_CLASS_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TABLE_COLUMNS = ("file", "class")


@dataclass(frozen=True)
class ImageFile:
    """One image on disk; ``file_name`` is its path below the folder, with slashes."""

    path: Path
    file_name: str
    class_id: str
    patient_id: str = ""


@dataclass(frozen=True)
class ImageTree:
    """The images of a folder, by class and name, and what in it is not going to be used."""

    images: tuple[ImageFile, ...]
    notices: tuple[str, ...]

    @property
    def class_ids(self) -> tuple[str, ...]:
        """Classes with at least one image, sorted."""
        return tuple(sorted({image.class_id for image in self.images}))


def read_image_tree(folder: str | Path) -> ImageTree:
    """Read ``<folder>/<class>/…/<image>`` and, if it is there, ``<folder>/labels.csv``.

    The table has the columns ``file`` and ``class``, and ``patient_id`` where patients are known.
    Everything that is not used is named in ``notices``.

    Raises:
        CytosynthError: No images, an image over 20 MB, a bad class name, or a table that
            contradicts the folders or names patients in another column. Names the file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise invalid_argument("folder", f"{root} is not a folder", "name one with <class>/<image>")
    notices: list[str] = []
    images: list[ImageFile] = []
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            images += _read_class(root, entry, notices)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            notices.append(f"{entry.name}: left out, it lies in no class folder")
    if not images:
        raise invalid_argument(
            "folder",
            f"{root} holds no images in class folders",
            f"lay it out as <class>/<image> ({', '.join(sorted(IMAGE_SUFFIXES))})",
        )
    table = root / LABELS_FILE
    if table.is_file():
        images = _with_patients(images, table, notices)
    return ImageTree(tuple(images), tuple(notices))


def image_files(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """The image files among ``paths`` and below the folders among them, and notices.

    Raises:
        CytosynthError: A path does not exist, or there is no image at all.
    """
    found: list[Path] = []
    notices: list[str] = []
    for path in paths:
        if path.is_dir():
            for file in _files_below(path):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    found.append(file)
                else:
                    notices.append(f"{file}: left out, not an image by its name")
        elif path.is_file():
            found.append(path)
        else:
            raise invalid_argument("images", f"{path} does not exist", "name files or folders")
    if not found:
        raise invalid_argument("images", "no image files found", "name image files or folders")
    return found, notices


def read_image(path: Path, file_name: str = "") -> bytes:
    """The bytes of an image file; raises naming the file if it is unreadable, empty or too big."""
    name = file_name or str(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_IMAGE_BYTES else b""
    except OSError as error:
        raise invalid_argument(
            name, f"cannot be read: {error.strerror}", "check the file"
        ) from None
    check_size(name, size)
    return data


def check_size(name: str, num_bytes: int) -> None:
    """Raise, naming the file, unless it has 1 byte to 20 MB."""
    if num_bytes > MAX_IMAGE_BYTES:
        raise invalid_argument(
            name,
            f"{num_bytes / 1e6:.1f} MB is over the limit of {MAX_IMAGE_BYTES / 1e6:.0f} MB",
            "crop it to the cell or save it smaller",
        )
    if num_bytes == 0:
        raise invalid_argument(name, "the file is empty", "replace or remove it")


def _read_class(root: Path, folder: Path, notices: list[str]) -> list[ImageFile]:
    found: list[ImageFile] = []
    for file in _files_below(folder):
        name = file.relative_to(root).as_posix()
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            notices.append(f"{name}: left out, not an image by its name")
            continue
        try:
            check_size(name, file.stat().st_size)
        except OSError as error:
            raise invalid_argument(name, f"cannot be read: {error.strerror}") from None
        found.append(ImageFile(file, name, folder.name))
    if not found:
        notices.append(f"{folder.name}: left out, the class folder holds no images")
    elif not _CLASS_ID.fullmatch(folder.name):
        raise invalid_argument(
            "class_id",
            f"the folder name {folder.name!r} is not a class id",
            f"rename it, for example to {suggested_class_id(folder.name)!r} "
            "(a-z, 0-9 and _, starting with a letter)",
        )
    return found


def suggested_class_id(name: str) -> str:
    """A valid class id close to ``name``."""
    text = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return (text if text[:1].isalpha() else f"class_{text}")[:63].rstrip("_")


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir():
            yield path


def _with_patients(images: list[ImageFile], table: Path, notices: list[str]) -> list[ImageFile]:
    rows = _read_table(table)
    by_name = {image.file_name: image for image in images}
    for line, row in rows:
        image = by_name.get(row["file"])
        if image is None:
            close = difflib.get_close_matches(row["file"], by_name, n=1)
            hint = f"; is it {close[0]}?" if close else ""
            notices.append(f"{table.name} line {line}: {row['file']} is not among the images{hint}")
        elif image.class_id != row["class"]:
            raise invalid_argument(
                f"{table.name} line {line}",
                f"{row['file']} is {row['class']!r} here but lies in the folder {image.class_id!r}",
                "make table and folders agree",
            )
    patients = {row["file"]: row.get(PATIENT_COLUMN, "").strip() for _, row in rows}
    if any(patients.values()):
        num_without = sum(not patients.get(name) for name in by_name)
        if num_without:
            notices.append(f"{num_without} images have no {PATIENT_COLUMN} in {table.name}")
    return [
        ImageFile(image.path, image.file_name, image.class_id, patients.get(image.file_name, ""))
        for image in images
    ]


def _read_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        return read_labels(table.read_text("utf-8-sig"), _TABLE_COLUMNS)
    except LabelsError as error:
        raise invalid_argument(table.name, error.problem, error.remedy) from None
    except (UnicodeDecodeError, OSError) as error:
        raise CytosynthError(
            "INVALID_ARGUMENT", f"{table.name} cannot be read as UTF-8 CSV: {error}"
        ) from None
