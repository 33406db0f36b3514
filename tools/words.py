"""Replaced phrases and long docstrings, by the rules of CONTRIBUTING.md.

Each function that lists problems gives one line each.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
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
MAX_FIRST_LINE_WORDS = 12
MAX_SENTENCE_WORDS = 25
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
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_GENERATED = re.compile(r"_pb2(_grpc)?\.py$|/versions/")
_ABBREVIATION = re.compile(r"\b(al|cf|e\.g|i\.e|vs)\.(?=\s)")
# A colon or semicolon ends what is counted, as it does in a list of arguments.
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s+")
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


def docstring_problems(texts: Mapping[PurePosixPath, str]) -> list[str]:
    """Docstrings with a bad first line or a long sentence."""
    return [
        f"{path}:{line}: {problem}"
        for path, text in texts.items()
        if path.suffix == ".py" and not _GENERATED.search(str(path))
        for line, docstring in _docstrings(text)
        for problem in _docstring_problems(docstring)
    ]


def _docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Line and unindented text of the docstrings of modules, classes and functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _Documented) and (docstring := ast.get_docstring(node, clean=False)):
            place = node.body[0]
            yield place.lineno, docstring.replace("\n" + " " * place.col_offset, "\n")


def _docstring_problems(docstring: str) -> Iterator[str]:
    """Faults of one docstring, whose indented paragraphs are code."""
    first, *_ = docstring.splitlines()
    if not first.endswith("."):
        yield f"{first!r}: end the first line with a full stop"
    if len(first.split()) > MAX_FIRST_LINE_WORDS:
        yield f"{first!r}: begin with at most {MAX_FIRST_LINE_WORDS} words"
    for paragraph in re.split(r"\n[ \t]*\n", docstring):
        if paragraph.startswith(" "):
            continue
        for sentence in _SENTENCE_END.split(_ABBREVIATION.sub(r"\1", paragraph)):
            if (num_words := len(sentence.split())) > MAX_SENTENCE_WORDS:
                begin = " ".join(sentence.split()[:6])
                yield f"{begin!r} …: {num_words} words, at most {MAX_SENTENCE_WORDS} in a sentence"
