"""Joins the rows of ``labels.csv`` to images, in linear time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cytosynth.cell_classes import resolve_class_id
from cytosynth.image_folder.problems import ImageFolderError, Problem
from cytosynth.labels_table import PATIENT_COLUMN, LabelsRow, LabelsTable

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class LabelledPath:
    """An image's path below the folder, its top folder and class."""

    path: str
    folder: str
    class_id: str


def patients_of(
    table: LabelsTable, table_name: str, images: Sequence[LabelledPath]
) -> dict[str, str]:
    """Patient id by path, for images whose patient is known.

    Rows may hold backslashes, a drive, and folders above the one that is read, the same for all
    rows. Case and the form of accents count only where they tell images apart.

    Raises:
        ImageFolderError: Rows that match no image, or rows that contradict each other, the
            folders, or in the folders above.
    """
    index = _Index(images)
    missing: list[Problem] = []
    contradictions: list[Problem] = []
    patients: dict[str, str] = {}
    first_rows: dict[str, LabelsRow] = {}
    above: dict[str, LabelsRow] = {}
    for row in table.rows:
        name = f"{table_name} line {row.line}"
        image, prefix = index.find(row.file)
        if image is None:
            missing.append(Problem(name, f"{row.file!r} is not among the images"))
            continue
        above.setdefault(prefix, row)
        if row.class_name and resolve_class_id(row.class_name) != image.class_id:
            text = f"{row.file} is {row.class_name!r} here but lies in the folder {image.folder!r}"
            contradictions.append(Problem(name, text))
        before = first_rows.setdefault(image.path, row)
        known = patients.get(image.path, "")
        if known and row.patient_id and row.patient_id != known:
            text = (
                f"{row.file} is of {row.patient_id!r} here and of {known!r} in line {before.line}"
            )
            contradictions.append(Problem(name, text))
        if row.patient_id:
            patients[image.path] = known or row.patient_id
    if contradictions:
        raise ImageFolderError(contradictions, "make table and folders agree")
    if missing:
        raise ImageFolderError(
            missing,
            f"correct or remove {'this row' if len(missing) == 1 else f'these {len(missing)} rows'}"
            f" of {len(table.rows)}: paths are relative to the folder, "
            f"such as {images[0].path}, or name it with all folders above it",
        )
    if len(above) > 1:
        first, second, *_ = above.values()
        raise ImageFolderError(
            [
                Problem(
                    f"{table_name} lines {first.line} and {second.line}",
                    f"{first.file} and {second.file} lie in different folders",
                )
            ],
            "keep the rows of this folder alone, with paths relative to it",
        )
    return patients


def patient_notices(
    table: LabelsTable | None,
    table_name: str,
    images: Sequence[LabelledPath],
    patients: dict[str, str],
) -> list[str]:
    """Notices about unknown patients, and sub-folders that name none."""
    notices = []
    if table is not None and table.unknown_words:
        words = ", ".join(repr(word) for word in table.unknown_words[:5])
        notices.append(f"{table_name}: {PATIENT_COLUMN} {words} counts as an unknown patient")
    num_without = len(images) - len(patients)
    if patients and num_without:
        notices.append(f"{num_without} images have no {PATIENT_COLUMN} in {table_name}")
    nested = [image.path for image in images if image.path.count("/") > 1]
    if nested and not patients:
        notices.append(
            f"{len(nested)} images lie in sub-folders of their class, such as {nested[0]}; "
            "if these are patients, name them in labels.csv: sub-folders are not taken for them"
        )
    return notices


class _Index:
    """Finds images by the paths that tables write."""

    def __init__(self, images: Iterable[LabelledPath]) -> None:
        self._exact: dict[str, LabelledPath] = {}
        self._folded: dict[str, LabelledPath | None] = {}
        for image in images:
            self._exact[image.path] = image
            key = _folded(image.path)
            self._folded[key] = None if key in self._folded else image

    def find(self, written: str) -> tuple[LabelledPath | None, str]:
        """The image that a path names, and the folders above in it."""
        image = self._get(written)
        if image is not None:
            return image, ""
        parts = _DRIVE.sub("", written.replace("\\", "/"), count=1).split("/")
        parts = [part for part in parts if part not in ("", ".")]
        for start in range(len(parts) - 1):
            image = self._get("/".join(parts[start:]))
            if image is not None:
                return image, _folded("/".join(parts[:start]))
        return None, ""

    def _get(self, path: str) -> LabelledPath | None:
        return self._exact.get(path) or self._folded.get(_folded(path))


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()
