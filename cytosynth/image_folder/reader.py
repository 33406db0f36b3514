"""Reads the images of an ImageFolder tree, their classes and patients."""

from __future__ import annotations

from dataclasses import dataclass

from cytosynth.image_folder.layout import class_ids_of
from cytosynth.image_folder.patients import LabelledPath, patient_notices, patients_of
from cytosynth.image_folder.problems import ImageFolderError, Problem, named, printable
from cytosynth.image_folder.walk import (
    IMAGE_SUFFIXES,
    TEXT_TABLE_SUFFIXES,
    Files,
    Found,
    FoundFile,
    walk,
)
from cytosynth.labels_table import (
    COLUMNS_REMEDY,
    LABELS_FILE,
    LabelsError,
    LabelsTable,
    patients_column,
    read_labels,
)

MAX_LABELS_BYTES = 100_000_000
_HEAD_BYTES = 65_536
_MAX_TABLES = 50
_SAVE_AS_LABELS = f"save it as {LABELS_FILE} beside the class folders (CSV; {COLUMNS_REMEDY})"


@dataclass(frozen=True)
class FolderImage:
    """One image of a tree.

    Attributes:
        path: Path below the folder, with slashes, as its file system spells it.
        file_name: The same, fit to be shown and sent.
        class_id: Class of the top folder.
        patient_id: Patient; empty where unknown.
        num_bytes: Size as listed.
    """

    path: str
    file_name: str
    class_id: str
    patient_id: str
    num_bytes: int


@dataclass(frozen=True)
class ImageFolder:
    """Images of a folder in the order of their paths, and notices."""

    images: tuple[FolderImage, ...]
    notices: tuple[str, ...]


def read_image_folder(files: Files) -> ImageFolder:
    """Read ``<class>/…/<image>`` and, if it is there, ``labels.csv``.

    Class folders may bear a class id, a Munich code or a display name. The table has the columns
    ``file`` and, where known, ``class`` and ``patient_id``. All that is not used is in the notices.

    Raises:
        ImageFolderError: No images, folders that are no classes, a table that names no image or
            contradicts itself or the folders, or patients that would be lost.
    """
    found = walk(files)
    if found.unreadable:
        problems = [Problem(name or "folder", "cannot be listed") for name in found.unreadable]
        raise ImageFolderError(problems, "give read permission, or move it out of the folder")
    if not found.images:
        text = f"{files.shown('')} holds no images in class folders"
        remedy = f"lay it out as <class>/<image> ({', '.join(sorted(IMAGE_SUFFIXES))})"
        raise ImageFolderError([Problem("folder", text)], remedy)
    classes, notices = class_ids_of(files, found.images)
    images = [
        LabelledPath(image.path, image.parts[0], classes[image.parts[0]]) for image in found.images
    ]
    name, table = _labels(files, found)
    patients = patients_of(table, name, images) if table else {}
    notices = [
        *found.notices(),
        *notices,
        *_other_tables(files, found, name, has_patients=bool(table and table.has_patients)),
        *patient_notices(table, name, images, patients),
    ]
    return ImageFolder(
        tuple(
            FolderImage(
                file.path,
                printable(file.path),
                image.class_id,
                patients.get(file.path, ""),
                file.num_bytes,
            )
            for file, image in zip(found.images, images, strict=True)
        ),
        tuple(notices),
    )


def _labels(files: Files, found: Found) -> tuple[str, LabelsTable | None]:
    """The table's name as spelled, and its content or None."""
    names = [each.path for each in found.tables if each.path.lower() == LABELS_FILE]
    if not names:
        return LABELS_FILE, None
    if len(names) > 1:
        raise ImageFolderError([Problem("folder", f"holds {' and '.join(names)}")], "remove one")
    try:
        data = files.read(names[0], MAX_LABELS_BYTES + 1)
        if len(data) > MAX_LABELS_BYTES:
            raise LabelsError(
                f"has more than {MAX_LABELS_BYTES} bytes", "keep the columns file and patient_id"
            )
        return names[0], read_labels(data)
    except LabelsError as error:
        raise ImageFolderError([Problem(names[0], error.problem)], error.remedy) from None
    except OSError:
        problem = Problem(names[0], "cannot be read")
        raise ImageFolderError([problem], "give read permission") from None


def _other_tables(files: Files, found: Found, labels: str, *, has_patients: bool) -> list[str]:
    """Notices about tables that are not read.

    Raises:
        ImageFolderError: Patients that only such a table names would be lost.
    """
    others = [each for each in found.tables if each.path != labels]
    with_patients = [
        Problem(printable(each.path), f"names patients in {column!r}, and is not read")
        for each in others[:_MAX_TABLES]
        if not has_patients and (column := _patients_column(files, each))
    ]
    if with_patients:
        remedy = f"{_SAVE_AS_LABELS}, or move it out of the folder if patients do not matter"
        raise ImageFolderError(with_patients, remedy)
    names = [printable(each.path) for each in others if not each.path.lower().endswith(".txt")]
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{named(names)} {verb} not read; if patients stand there, {_SAVE_AS_LABELS}"]


def _patients_column(files: Files, table: FoundFile) -> str:
    if not table.path.lower().endswith(tuple(TEXT_TABLE_SUFFIXES)):
        return ""
    try:
        return patients_column(files.read(table.path, _HEAD_BYTES))
    except OSError:
        return ""
