"""Full disks: a small real file system, and writes that fail likewise."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Smallest file that is written to fill a disk, bytes: below it, no room is left for anything.
_FILL_BYTES = 512


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a file system of ``num_bytes`` at ``folder``, or skip the test.

    Yields:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill ``folder``'s disk with a file, whose removal makes room again."""
    ballast, size = folder / "ballast", 1 << 20
    with open(ballast, "wb", buffering=0) as file:
        while size >= _FILL_BYTES:
            try:
                file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    return ballast


class Refused:
    """Switches writing below a folder off, with an errno of choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
        self._folder, self.error = str(folder), OSError(number, os.strerror(number))
        self.on, self.num_refused = False, 0
        self._open = builtins.open
        monkeypatch.setattr(builtins, "open", self._open_or_refuse)

    def _open_or_refuse(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.on and set(mode) & set("wxa+") and str(path).startswith(self._folder):
            self.num_refused += 1
            raise self.error
        return self._open(path, mode, *args, **kwargs)
