"""Which code made an artifact."""

from __future__ import annotations

from importlib import metadata


def code_version() -> str:
    """Version of the installed package, for manifests."""
    try:
        return f"cytosynth {metadata.version('cytosynth')}"
    except metadata.PackageNotFoundError:
        return "cytosynth (not installed)"
