"""``labels.csv`` as laboratories write it: separators, encodings, line ends, unknown patients."""

from __future__ import annotations

import pytest

from cytosynth.labels_table import LabelsError, known_patient, patients_column, read_labels

ROWS = [(2, "blast/0.png", "blast", "p1"), (3, "blast/a, b.png", "blast", "")]


def rows_of(data: bytes) -> list[tuple[int, str, str, str]]:
    table = read_labels(data)
    return [(row.line, row.file, row.class_name, row.patient_id) for row in table.rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_any_program_is_read(separator: str, end: str, encoding: str) -> None:
    header = separator.join(("File", "class", "note", "Patient_ID"))
    lines = [
        header,
        separator.join(("blast/0.png", "blast", "x", "p1")),
        separator.join(('"blast/a, b.png"', "blast", "", "NA")),
        separator * 3,
    ]
    data = (end.join(lines) + end).encode(encoding)
    assert rows_of(data) == ROWS
    assert read_labels(data).unknown_words == ("NA",)


def test_the_separator_that_excel_declares_is_taken() -> None:
    assert rows_of(b"sep=;\r\nfile;patient_id\r\na,b.png;7\r\n") == [(3, "a,b.png", "", "7")]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "NA", "n/a", "N.A.", "#N/A", "nan", "None", "NULL", "-", "--", "?"),
        *("unknown", "Unbekannt", "not available", "missing"),
    ],
)
def test_a_word_for_unknown_is_no_patient(text: str) -> None:
    assert known_patient(text) == ""


@pytest.mark.parametrize("text", ["0", "p1", "Nan Li", "NA12878", " 7 "])
def test_a_patient_is_a_patient(text: str) -> None:
    assert known_patient(text) == text.strip()


@pytest.mark.parametrize(
    "column", ["case_id", "PatientNr", "patient", "SUBJECT", "donor_id", "Patienten-ID", "PID"]
)
def test_a_column_of_patients_is_known_by_its_name(column: str) -> None:
    text = f"file,class,{column},lower_case_share\na.png,blast,7,1\n"
    with pytest.raises(LabelsError, match=column):
        read_labels(text.encode())
    assert patients_column(text.encode()) == column
    table = read_labels(text.replace("lower_case_share", "patient_id").encode())
    assert (table.has_patients, table.rows[0].patient_id) == (True, "1")


def test_a_table_without_patients_is_read() -> None:
    text = b"file,class,lower_case_share,subjective_quality\na.png,blast,,4\n"
    assert rows_of(text) == [(2, "a.png", "blast", "")]
    assert not read_labels(text).has_patients
    assert patients_column(text) == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the column 'file' is missing"),
        (b"image,patient_id\n", "the column 'file' is missing; columns: file, class and"),
        (b"file,class\na,b.png,blast\n", "line 2 has 3 values and the header 2; put values"),
        (b"file,patient_id,Patient_ID\n", "'patient_id' stands there twice"),
        ("file,patient_id\na,Müller\n".encode("latin-1"), "is not UTF-8; save it as CSV"),
        (b'file,patient_id\n"' + b"x" * 200_000, "is not CSV"),
        (b"file,patient_id\na," + b"x" * 201, "line 2: the patient_id has 201 characters"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(data: bytes, message: str) -> None:
    with pytest.raises(LabelsError, match=message):
        read_labels(data)


@pytest.mark.parametrize(
    "head",
    [b"", b"\x00\x01", b"Patient images, from 2020, all\nof them\n", b"notes on patients\n", b"PK"],
)
def test_prose_is_no_table_of_patients(head: bytes) -> None:
    assert patients_column(head) == ""
