"""Messages of bounded length about folders that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Names in one message, at most.
MAX_NAMED = 5
#: Problems in one error, at most.
MAX_PROBLEMS = 20
MAX_FILE_NAME = 500


@dataclass(frozen=True)
class Problem:
    """One file, folder or table that cannot be used, and why."""

    name: str
    text: str


class ImageFolderError(ValueError):
    """A folder cannot be read as it is.

    Attributes:
        problems: At most ``MAX_PROBLEMS``, at least one.
        num_problems: How many there are in all.
        remedy: What to do about them.
    """

    def __init__(self, problems: Sequence[Problem], remedy: str) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.num_problems = len(problems)
        self.remedy = remedy
        super().__init__(f"{self.message}; {remedy}")

    @property
    def message(self) -> str:
        """The first problems in one line, and how many more there are."""
        return joined_problems(
            [f"{each.name}: {each.text}" for each in self.problems], self.num_problems
        )


def joined_problems(texts: Sequence[str], num_problems: int) -> str:
    """The first ``MAX_NAMED`` texts in one line, and how many more."""
    told = texts[:MAX_NAMED]
    more = num_problems - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def named(names: Iterable[str], most: int = MAX_NAMED) -> str:
    """The first names, separated by commas, and how many more."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")


def left_out(names: Sequence[str], reason: str) -> str:
    """A notice about files or folders that are not used."""
    if len(names) == 1:
        return f"{names[0]}: left out, {reason}"
    return f"{len(names)} left out, {reason}: {named(names)}"


def printable(name: str) -> str:
    """Printable file name of at most ``MAX_FILE_NAME`` characters.

    Bytes that are not UTF-8, control characters and line ends are written as escapes. The
    beginning of an over-long path is cut off.
    """
    text = name
    if not name.isprintable():
        text = "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in name
        )
    return text if len(text) <= MAX_FILE_NAME else "…" + text[1 - MAX_FILE_NAME :]
