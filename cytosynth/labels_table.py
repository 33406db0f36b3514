"""``labels.csv``, the table beside the class folders, as client and server read it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection

LABELS_FILE = "labels.csv"
PATIENT_COLUMN = "patient_id"
COLUMNS_REMEDY = f"columns, separated by commas: file, class and, where known, {PATIENT_COLUMN}"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_PATIENT_WORDS = {"subject", "subjectid", "donor", "donorid", "case", "caseid", "pid"}


class LabelsError(ValueError):
    """The table is not as it must be; ``problem`` says what is wrong, ``remedy`` what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


def read_labels(text: str, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows of the table; values that are missing are empty.

    Patients under another name than ``patient_id`` are refused: passed over, they would let
    images of one patient train and test.

    Raises:
        LabelsError: One of ``columns`` is missing, patients stand in a column of another name,
            or the text is not CSV.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names = reader.fieldnames or ()
        for column in columns:
            if column not in names:
                raise LabelsError(f"the column {column!r} is missing", COLUMNS_REMEDY)
        if PATIENT_COLUMN not in names and (other := _patients_elsewhere(names)):
            raise LabelsError(
                f"patients are read from {PATIENT_COLUMN!r}, and this column is {other[:80]!r}",
                f"rename it to {PATIENT_COLUMN}, or take it out if it names no patients",
            )
        return [
            (reader.line_num, {key: value or "" for key, value in row.items() if key})
            for row in reader
        ]
    except csv.Error as error:
        raise LabelsError(f"is not CSV: {error}", COLUMNS_REMEDY) from None


def _patients_elsewhere(names: Collection[str]) -> str:
    for name in names:
        words = [word.lower() for word in _WORD.findall(name)]
        if any(word.startswith("patient") for word in words) or {*words[:1]} & _PATIENT_WORDS:
            return name
    return ""
