"""ImageFolder trees on this machine, checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cytosynth.client.errors import CytosynthError, FieldViolation, invalid_argument
from cytosynth.client.local_files import LocalFiles
from cytosynth.image_folder.content import foreign_content
from cytosynth.image_folder.problems import ImageFolderError, Problem, printable
from cytosynth.image_folder.reader import FolderImage, read_image_folder
from cytosynth.image_folder.walk import walk
from cytosynth.labels_table import LABELS_FILE

MAX_IMAGE_BYTES = 20_000_000
_HEAD_BYTES = 512


@dataclass(frozen=True)
class ImageFile:
    """One image on disk; ``file_name`` is its printable path below the folder."""

    path: Path
    file_name: str
    class_id: str
    patient_id: str = ""


@dataclass(frozen=True)
class ImageTree:
    """Images of a folder by class and name, and notices."""

    images: tuple[ImageFile, ...]
    notices: tuple[str, ...]

    @property
    def class_ids(self) -> tuple[str, ...]:
        """Classes with at least one image, sorted."""
        return tuple(sorted({image.class_id for image in self.images}))


def read_image_tree(folder: str | Path) -> ImageTree:
    """Read ``<folder>/<class>/…/<image>`` and, if it is there, ``<folder>/labels.csv``.

    Class folders may bear a class id, a Munich code or a display name. The table has the columns
    ``file`` and, where known, ``class`` and ``patient_id``; ``NA``, ``unknown`` and the like are no
    patient. Everything that is not used is named in ``notices``.

    Raises:
        CytosynthError: There are no images, folders that are no classes, or files that are no
            images of at most 20 MB. Another cause is a table that would lose patients, or
            contradicts itself or the folders. The message names all files at fault, up to a
            limit, and their number.
    """
    root = Path(folder)
    if not root.is_dir():
        raise invalid_argument("folder", f"{root} is not a folder", "name one with <class>/<image>")
    try:
        found = read_image_folder(LocalFiles(root))
        _check_files(root, found.images)
    except ImageFolderError as error:
        raise _refused(error) from None
    images = tuple(
        ImageFile(root / image.path, image.file_name, image.class_id, image.patient_id)
        for image in found.images
    )
    return ImageTree(images, (*found.notices, *_table_above(root)))


def image_files(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Image files in and below ``paths``, and notices.

    Raises:
        CytosynthError: A path does not exist, a folder cannot be listed, or there is no image.
    """
    images: list[Path] = []
    notices: list[str] = []
    for path in paths:
        if path.is_dir():
            found = walk(LocalFiles(path), with_classes=False)
            if found.unreadable:
                name = str(path / found.unreadable[0])
                raise invalid_argument(name, "cannot be listed", "give read permission")
            images += [path / file.path for file in found.images]
            notices += [f"{printable(str(path))}: {notice}" for notice in found.notices()]
        elif path.is_file():
            images.append(path)
        else:
            raise invalid_argument("images", f"{path} does not exist", "name files or folders")
    if not images:
        raise invalid_argument("images", "no image files found", "name image files or folders")
    return images, notices


def read_image(path: Path, file_name: str = "") -> bytes:
    """Bytes of an image file.

    Raises:
        CytosynthError: The file cannot be sent; the message names the file.
    """
    name = file_name or printable(str(path))
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
    fault = _size_fault(num_bytes)
    if fault is not None:
        raise invalid_argument(name, *fault)


def _table_above(root: Path) -> list[str]:
    """Notice about a table in the parent folder, which is not read."""
    if any(each.name.lower() == LABELS_FILE for each in root.iterdir()):
        return []
    table = root.resolve().parent / LABELS_FILE
    if not table.is_file():
        return []
    return [f"{printable(str(table))} is not read; copy the rows of this folder into {root}"]


def _check_files(root: Path, images: tuple[FolderImage, ...]) -> None:
    """Raise, naming all files that the trainer would surely refuse."""
    problems: list[Problem] = []
    remedies: dict[str, None] = {}
    for image in images:
        fault = _size_fault(image.num_bytes) or _content_fault(root / image.path)
        if fault is not None:
            problems.append(Problem(image.file_name, fault[0]))
            remedies[fault[1]] = None
    if problems:
        raise ImageFolderError(problems, "; ".join(remedies))


def _size_fault(num_bytes: int) -> tuple[str, str] | None:
    """What is wrong with a file of this size, and the remedy."""
    if num_bytes > MAX_IMAGE_BYTES:
        limit = MAX_IMAGE_BYTES / 1e6
        problem = f"{num_bytes / 1e6:.1f} MB is over the limit of {limit:.0f} MB"
        return problem, "crop it to the cell or save it smaller"
    return ("the file is empty", "replace or remove it") if num_bytes == 0 else None


def _content_fault(path: Path) -> tuple[str, str] | None:
    """What is wrong with the beginning of a file, and the remedy."""
    try:
        with path.open("rb") as file:
            kind = foreign_content(file.read(_HEAD_BYTES))
    except OSError as error:
        return f"cannot be read: {error.strerror}", "give read permission"
    if not kind:
        return None
    return (
        f"is not an image that can be read, but {kind}",
        "send still PNG, JPEG, WebP, TIFF or BMP images alone",
    )


def _refused(error: ImageFolderError) -> CytosynthError:
    return CytosynthError(
        "INVALID_ARGUMENT",
        error.message,
        field_violations=[FieldViolation(each.name, each.text) for each in error.problems],
        remedy=error.remedy,
    )
