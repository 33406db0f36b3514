"""What all kinds of base models have in common: a folder with a manifest, known by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.common.errors import InvalidArgument, shown


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of a model folder's ``manifest.json``; empty where there is none to read."""
    try:
        content = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_known(what: str, name: str, known: list[str], field: str) -> None:
    """Make sure that a request names one of the models of this server.

    Args:
        what: How such a model is called, for example "CLIP base".
        name: As the request has it.
        known: Those that there are.
        field: Request field, for errors.

    Raises:
        InvalidArgument: If it is none of them, listing them.
    """
    if name not in known:
        listed = ", ".join(known) or f"none; this server has no {what}s"
        raise InvalidArgument(field, f"no {what} is called {shown(name)}", f"name one of: {listed}")
