"""Keeps each answer of reviewers at once, durably; never overwrites one."""

from __future__ import annotations

import re
import sqlite3
import threading
import unicodedata
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cytosynth.client.errors import CytosynthError, invalid_argument

ANSWERS_FILE = "answers.sqlite"
#: The answer to "real or synthetic?", from surely real to surely synthetic.
CALLS = ("surely_real", "probably_real", "probably_synthetic", "surely_synthetic")
#: Given as class where none of the offered ones fits; no class id looks like this.
NO_CLASS = "?"
QUALITIES = (1, 2, 3, 4, 5)
MAX_NAME_LENGTH = 60
_NAME = re.compile(r"[^\W_][\w .\-]*")
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  reviewer TEXT NOT NULL,
  cell TEXT NOT NULL,
  call TEXT NOT NULL,
  class_id TEXT NOT NULL,
  quality INTEGER NOT NULL,
  answered_at TEXT NOT NULL
)"""


@dataclass(frozen=True)
class Answer:
    """What one reviewer says of one cell.

    Attributes:
        reviewer: Pseudonym.
        cell: Id of the cell.
        call: One of ``CALLS``.
        class_id: A class of the mix, or ``NO_CLASS``.
        quality: 1 (worst) to 5 (best).
        answered_at: UTC, ISO 8601; empty until it is kept.
        num_given: How often the reviewer has answered for this cell, this one included.
    """

    reviewer: str
    cell: str
    call: str
    class_id: str
    quality: int
    answered_at: str = ""
    num_given: int = 1


def clean_reviewer(text: str) -> str:
    """The pseudonym in one spelling; raises unless it can be one."""
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise invalid_argument(
            "reviewer",
            "is missing" if not name else "is not a pseudonym",
            f"give 1 to {MAX_NAME_LENGTH} letters, digits, spaces, dots, hyphens or underscores, "
            "beginning with a letter or digit",
        )
    return name


def read_answer(body: object, cells: set[str], class_ids: tuple[str, ...]) -> Answer:
    """An answer from the JSON of a browser; raises naming the field."""
    if not isinstance(body, Mapping):
        raise invalid_argument("body", "is not a JSON object", f"send {{{', '.join(_FIELDS)}}}")
    unknown = sorted(set(body) - set(_FIELDS))
    if unknown:
        raise invalid_argument(str(unknown[0])[:40], "is no field", f"send {', '.join(_FIELDS)}")
    cell = _choice(body, "cell", cells, "a cell id of this review; reload the page")
    call = _choice(body, "call", CALLS, f"one of {', '.join(CALLS)}")
    offered = (*class_ids, NO_CLASS)
    class_id = _choice(body, "class_id", offered, f"one of {', '.join(offered)}")
    quality = body.get("quality")
    if type(quality) is not int or quality not in QUALITIES:
        raise invalid_argument("quality", _wrong(quality), "send a whole number from 1 to 5")
    reviewer = body.get("reviewer")
    if not isinstance(reviewer, str):
        raise invalid_argument("reviewer", _wrong(reviewer), "send the reviewer's pseudonym")
    return Answer(clean_reviewer(reviewer), cell, call, class_id, quality)


_FIELDS = ("reviewer", "cell", "call", "class_id", "quality")


def _choice(body: Mapping[str, Any], field: str, offered: Any, remedy: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or value not in offered:
        raise invalid_argument(field, _wrong(value), f"send {remedy}")
    return value


def _wrong(value: object) -> str:
    return "is missing" if value is None else f"{str(value)[:40]!r} is not known"


class Answers:
    """Answers of one review, for use from several threads and processes.

    An answer is on disk when ``keep`` returns (SQLite, write-ahead log, synchronous FULL).
    """

    def __init__(self, out: Path) -> None:
        """Open ``<out>/answers.sqlite``, made if it is missing; raises if it is damaged."""
        self._path = out / ANSWERS_FILE
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            with self._database:
                self._database.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise CytosynthError(
                "DATA_LOSS",
                f"{self._path} cannot be used: {error}",
                remedy="put a copy of it back, or choose another --out",
            ) from None

    def close(self) -> None:
        """Close the database; nothing is lost without it."""
        with self._lock:
            self._database.close()

    def keep(self, answer: Answer) -> None:
        """Keep an answer.

        Earlier answers for the same cell stay in the history.
        """
        answered_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (answer.reviewer, answer.cell, answer.call, answer.class_id, answer.quality)
        with self._lock, self._database:
            self._database.execute(
                "INSERT INTO answers (reviewer, cell, call, class_id, quality, answered_at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (*row, answered_at),
            )

    def history(self) -> list[Answer]:
        """Every answer ever given, oldest first.

        ``Ada`` and ``ada`` are one reviewer, called as he or she wrote first.
        """
        with self._lock, closing(self._database.cursor()) as cursor:
            rows = cursor.execute(
                "SELECT reviewer, cell, call, class_id, quality, answered_at "
                "FROM answers ORDER BY number"
            ).fetchall()
        spelling: dict[str, str] = {}
        num_given: dict[tuple[str, str], int] = {}
        answers = []
        for name, cell, call, class_id, quality, answered_at in rows:
            reviewer = spelling.setdefault(name.casefold(), name)
            key = (reviewer, cell)
            num_given[key] = num_given.get(key, 0) + 1
            answers.append(
                Answer(reviewer, cell, call, class_id, quality, answered_at, num_given[key])
            )
        return answers

    def latest(self) -> dict[str, dict[str, Answer]]:
        """Last answer by reviewer and cell id; reviewers by their first answer."""
        found: dict[str, dict[str, Answer]] = {}
        for answer in self.history():
            found.setdefault(answer.reviewer, {})[answer.cell] = answer
        return found

    def of(self, reviewer: str) -> dict[str, Answer]:
        """The last answers of one reviewer by cell id."""
        by_name = {name.casefold(): answers for name, answers in self.latest().items()}
        return by_name.get(reviewer.casefold(), {})
