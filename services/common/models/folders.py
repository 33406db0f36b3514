"""Folders of base models: manifest, and check of a requested name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.common.errors import InvalidArgument, shown


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of a model folder's ``manifest.json``; empty without a readable one."""
    try:
        content = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_known(what: str, name: str, known: list[str], field: str) -> None:
    """Checks that a request names one of the models of this server.

    Args:
        what: Kind of model, for example "CLIP base".
        name: Name in the request.
        known: Names of the models of this server.
        field: Request field, for errors.

    Raises:
        InvalidArgument: If ``name`` is not known; lists the known ones.
    """
    if name not in known:
        listed = ", ".join(known) or f"none; this server has no {what}s"
        raise InvalidArgument(field, f"no {what} is called {shown(name)}", f"name one of: {listed}")
