"""Phrases that the field's English replaced; CONTRIBUTING.md has the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

REPLACED = {
    r"hangs? on": "depends on",
    r"(learn|learned|learnt|learns) by heart": "memorize",
    r"learned its patients by heart": "memorize",
    r"strangers'": "untrusted",
    r"whosever|by whomever|for nobody": "name who",
    r"(gives?|gave|makes?|made) way": "is evicted, is preempted or yields",
    r"of late": "recently",
    r"signs? of life": "heartbeat",
    r"near-cop(y|ies)": "near-duplicate",
    r"shall": "must",
}
"""What to write instead, by regular expression."""
_PROSE = {".css", ".html", ".j2", ".js", ".lua", ".md", ".proto", ".py", ".sh", ".toml", ".yaml"}
# The table itself, its check and its test; and a notebook, which is history.
_EXEMPT = {
    PurePosixPath("CONTRIBUTING.md"),
    PurePosixPath("docs/lab-notebook.md"),
    PurePosixPath("tools/words.py"),
    PurePosixPath("tests/unit/tools/test_words.py"),
}
# Values of report.json stay as they are.
_FROZEN = re.compile("No near-copy of a training image is released")
_ANY = re.compile(rf"\b(?:{'|'.join(f'(?:{phrase})' for phrase in REPLACED)})(?!\w)", re.I)


def prose(root: Path, tracked: Iterable[Path]) -> dict[PurePosixPath, str]:
    """Texts of the files that people read, by path."""
    return {
        PurePosixPath(path): (root / path).read_text()
        for path in tracked
        if path.suffix in _PROSE and PurePosixPath(path) not in _EXEMPT
    }


def word_problems(texts: Mapping[PurePosixPath, str]) -> list[str]:
    """Replaced phrases, with what to write instead."""
    problems = []
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            for found in _ANY.finditer(_FROZEN.sub("", line)):
                instead = next(
                    better
                    for phrase, better in REPLACED.items()
                    if re.fullmatch(phrase, found[0], re.I)
                )
                problems.append(f"{path}:{number}: {found[0]!r}: write {instead!r}")
    return problems
