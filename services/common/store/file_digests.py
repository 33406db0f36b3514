"""Digests of files on disk, cached until a file changes."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content.

    Raises:
        OSError: If it cannot be read.
    """
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # part of the cache's key only
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
