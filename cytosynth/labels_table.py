"""``labels.csv``, the table beside the class folders: rows and their patients."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

LABELS_FILE = "labels.csv"
FILE_COLUMN, CLASS_COLUMN, PATIENT_COLUMN = "file", "class", "patient_id"
COLUMNS_REMEDY = f"columns: file, class and, where known, {PATIENT_COLUMN}"
MAX_PATIENT_ID = 200
_COLUMNS = (FILE_COLUMN, CLASS_COLUMN, PATIENT_COLUMN)
_SEPARATORS = ",;\t|"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_PATIENT_WORDS = {"subject", "subjectid", "donor", "donorid", "case", "caseid", "pid"}
# Without blanks and in lower case.
_UNKNOWN_PATIENTS = frozenset(
    (
        *("", "na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "nil", "-", "--", "—", "?", "."),
        *("unknown", "unk", "unbekannt", "missing", "undefined", "notavailable", "notknown"),
    )
)


class LabelsError(ValueError):
    """A table that cannot be used: the problem and its remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True)
class LabelsRow:
    """One row of the table.

    Attributes:
        line: Line of the file, from 1.
        file: Path of the image as written.
        class_name: Class as written; empty where the table does not say.
        patient_id: Patient; empty where unknown.
    """

    line: int
    file: str
    class_name: str
    patient_id: str


@dataclass(frozen=True)
class LabelsTable:
    """The rows, and how many patients stood there as words for "unknown"."""

    rows: tuple[LabelsRow, ...]
    has_patients: bool
    unknown_words: tuple[str, ...]


def known_patient(text: str) -> str:
    """A patient id, or "" for a word that says "unknown".

    ``NA``, ``N/A``, ``nan``, ``none``, ``null``, ``unknown``, ``-`` and the like name no patient,
    whatever their case: images that carry them are not of one patient.
    """
    text = text.strip()
    return "" if "".join(text.lower().split()) in _UNKNOWN_PATIENTS else text


def read_labels(data: bytes) -> LabelsTable:
    """Read the table: UTF-8, or UTF-16 with its mark, any usual separator.

    Patients under another name than ``patient_id`` are refused: passed over, they would let
    images of one patient train and test.

    Raises:
        LabelsError: The text is not a table, the column ``file`` is missing, or a row has more
            values than the header. Another cause is a column of patients with another name.
    """
    lines = _records(_text(data))
    try:
        _, header = next(lines, (1, []))
        names = _column_names(header)
        where = {column: names.index(column) for column in _COLUMNS if column in names}
        rows: list[LabelsRow] = []
        unknown: dict[str, None] = {}
        for line, values in lines:
            if len(values) > len(names) and any(value.strip() for value in values[len(names) :]):
                raise LabelsError(
                    f"line {line} has {len(values)} values and the header {len(names)}",
                    "put values that hold the separator in double quotes",
                )
            row = {key: values[at].strip() for key, at in where.items() if at < len(values)}
            written = row.get(PATIENT_COLUMN, "")
            patient_id = known_patient(written)
            if len(patient_id) > MAX_PATIENT_ID:
                problem = f"line {line}: the {PATIENT_COLUMN} has {len(patient_id)} characters"
                raise LabelsError(problem, f"use at most {MAX_PATIENT_ID}")
            if written and not patient_id:
                unknown[written] = None
            rows.append(
                LabelsRow(line, row.get(FILE_COLUMN, ""), row.get(CLASS_COLUMN, ""), patient_id)
            )
    except csv.Error as error:
        raise LabelsError(f"is not CSV: {error}", COLUMNS_REMEDY) from None
    return LabelsTable(tuple(rows), PATIENT_COLUMN in where, tuple(unknown))


def patients_column(head: bytes) -> str:
    """Name of the column of a table that seems to name patients.

    Args:
        head: The beginning of a text file, whole lines or not.

    Returns:
        The column's name; empty if the text is no table or has no such column.
    """
    text = head.decode("utf-8-sig", "replace").partition("\0")[0]
    try:
        rows = [[value.strip() for value in values] for _, values in islice(_records(text), 2)]
    except csv.Error:
        return ""
    names = rows[0] if rows else []
    is_table = len(names) > 1 and len(rows[-1]) == len(names) and max(map(len, names)) <= 40
    if not is_table:
        return ""
    return next((n for n in names if n.lower() == PATIENT_COLUMN), "") or _patients_elsewhere(names)


def _text(data: bytes) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise LabelsError("is not UTF-8", "save it as CSV in UTF-8") from None


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of every row that is not blank."""
    declared = re.match(r"sep=(.)(\r\n|\r|\n)", text)  # how Excel names the separator
    text = text[declared.end() :] if declared else text
    first = re.match(r"[^\r\n]*", text.lstrip("\r\n"))
    separator = declared[1] if declared else _separator(first[0] if first else "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for values in reader:
        if any(value.strip() for value in values):
            yield reader.line_num + bool(declared), values


def _separator(header: str) -> str:
    """The separator that finds most known columns, or else most columns."""

    def found(separator: str) -> tuple[int, int]:
        names = [name.strip(' "').lower() for name in header.split(separator)]
        return sum(column in names for column in _COLUMNS), len(names)

    return max(_SEPARATORS, key=found)


def _column_names(header: Sequence[str]) -> list[str]:
    """Header with known columns in lower case.

    Raises:
        LabelsError: The header cannot be used.
    """
    written = [name.strip() for name in header]
    names = [name.lower() if name.lower() in _COLUMNS else name for name in written]
    for column in _COLUMNS:
        if names.count(column) > 1:
            raise LabelsError(f"the column {column!r} stands there twice", "remove one")
    if FILE_COLUMN not in names:
        raise LabelsError(f"the column {FILE_COLUMN!r} is missing", COLUMNS_REMEDY)
    if PATIENT_COLUMN not in names and (other := _patients_elsewhere(names)):
        raise LabelsError(
            f"patients are read from {PATIENT_COLUMN!r}, and this column is {other[:80]!r}",
            f"rename it to {PATIENT_COLUMN}, or take it out if it names no patients",
        )
    return names


def _patients_elsewhere(names: Collection[str]) -> str:
    for name in names:
        words = [word.lower() for word in _WORD.findall(name)]
        if any(word.startswith("patient") for word in words) or {*words[:1]} & _PATIENT_WORDS:
            return name
    return ""
