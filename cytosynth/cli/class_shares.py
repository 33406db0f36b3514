"""Class shares on the command line: ``neutrophil=0.6,…``, or a CSV file."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import typer

_HINT = "--class-priors"


def class_shares(text: str) -> dict[str, float]:
    """Shares by class id.

    Args:
        text: Empty, or ``class=share`` pairs with commas between them, or the path of a CSV file.
            Each row of the file holds a class and its count, below a header or without one.

    Raises:
        typer.BadParameter: If neither can be read.
    """
    if not text or ("=" in text and not Path(text).is_file()):
        return _unique([_pair(part) for part in text.split(",") if part.strip()])
    try:
        content = Path(text).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter(
            f"{text!r} is no CSV file; write neutrophil=0.6,lymphocyte=0.4", param_hint=_HINT
        ) from None
    counts = _unique(_rows(content))
    total = sum(counts.values())
    if not total > 0:
        raise typer.BadParameter(f"{text} counts no cell", param_hint=_HINT)
    return {class_id: count / total for class_id, count in counts.items()}


def _rows(content: str) -> list[tuple[str, float]]:
    dialect = csv.excel if ";" not in content else _Semicolons
    rows = [row for row in csv.reader(content.splitlines(), dialect) if any(map(str.strip, row))]
    if rows and len(rows[0]) > 1 and _number(rows[0][1]) is None:
        rows = rows[1:]
    found = []
    for row in rows:
        count = _number(row[1]) if len(row) > 1 else None
        if count is None or count < 0:
            raise typer.BadParameter(
                f"{','.join(row)!r} is not a class and its count", param_hint=_HINT
            )
        found.append((row[0].strip(), count))
    return found


class _Semicolons(csv.excel):
    delimiter = ";"


def _pair(part: str) -> tuple[str, float]:
    class_id, _, share = part.partition("=")
    number = _number(share)
    if number is None or not class_id.strip():
        raise typer.BadParameter(f"{part!r} is not class=share", param_hint=_HINT)
    return class_id.strip(), number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unique(pairs: list[tuple[str, float]]) -> dict[str, float]:
    for class_id, _ in pairs:
        if sum(each == class_id for each, _ in pairs) > 1:
            raise typer.BadParameter(f"{class_id!r} is given twice", param_hint=_HINT)
    return dict(pairs)
