"""Puts the results of a review into the report of a study."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cytosynth.client.atomic_files import write_whole
from cytosynth.client.errors import CytosynthError
from cytosynth.review.report import as_json

BEGIN, END = "<!-- review -->", "<!-- /review -->"
_PLACE = re.compile(f"{re.escape(BEGIN)}(?:.*?{re.escape(END)})?", re.DOTALL)


def add_to_study(folder: Path, results: Mapping[str, Any], section: str) -> list[Path]:
    """Put the review into ``report.json`` (key "review") and ``report.html``; returns both paths.

    The page has a place for it, which begins with ``<!-- review -->``; a review that is there
    already, up to ``<!-- /review -->``, is replaced.

    Raises:
        CytosynthError: The folder holds no such report; nothing is written then.
    """
    json_path, html_path = folder / "report.json", folder / "report.html"
    for path in (json_path, html_path):
        if not path.is_file():
            raise CytosynthError(
                "FAILED_PRECONDITION",
                f"{folder} holds no study ({path.name} is missing)",
                remedy="name the --out of a `cytosynth study`",
            )
    try:
        report = json.loads(json_path.read_text(encoding="utf-8"))
        page = html_path.read_text(encoding="utf-8")
        if not isinstance(report, dict):
            raise ValueError("no object")
    except ValueError:
        raise CytosynthError(
            "DATA_LOSS",
            f"the report in {folder} is damaged",
            remedy="run `cytosynth study` with the same options again",
        ) from None
    if len(_PLACE.findall(page)) != 1:
        raise CytosynthError(
            "FAILED_PRECONDITION",
            f"{html_path} has no place for a review ({BEGIN})",
            remedy="name the --out of a `cytosynth study`, and write its report anew "
            "if an older Cytosynth wrote it",
        )
    filled = _PLACE.sub(lambda _: f"{BEGIN}\n{section}\n{END}", page)
    write_whole(json_path, as_json({**report, "review": results}))
    write_whole(html_path, filled.encode())
    return [json_path, html_path]
