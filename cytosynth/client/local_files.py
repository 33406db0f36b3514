"""Local folders for the reader of ImageFolder trees."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from cytosynth.image_folder.problems import printable
from cytosynth.image_folder.walk import Entry


class LocalFiles:
    """Lists and reads below ``root``.

    Links to files, and links to folders at the top, are followed. Links to folders further
    down are not, so that no loop of links is walked.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, path: str) -> list[Entry]:
        """What lies in a folder; raises OSError."""
        with os.scandir(self._root / path) as listed:
            return [self._entry(entry, at_top=not path) for entry in listed]

    def read(self, path: str, most_bytes: int) -> bytes:
        """The first bytes of a file; raises OSError."""
        with (self._root / path).open("rb") as file:
            return file.read(most_bytes)

    def shown(self, path: str) -> str:
        """The path on this machine."""
        return printable(str(self._root / path))

    def command(self, path: str) -> str:
        """The command that uploads a folder of the tree."""
        return f"cytosynth upload {shlex.quote(self.shown(path))}"

    def _entry(self, entry: os.DirEntry[str], at_top: bool) -> Entry:
        is_link = entry.is_symlink()
        try:
            if entry.is_dir():
                followed = not is_link or (at_top and not self._holds_root(entry.path))
                return Entry(entry.name, "folder" if followed else "link")
            if entry.is_file():
                return Entry(entry.name, "file", entry.stat().st_size)
            return Entry(entry.name, "link" if is_link else "other")
        except OSError:  # a loop of links, or a file that has just gone
            return Entry(entry.name, "link" if is_link else "other")

    def _holds_root(self, path: str) -> bool:
        return self._root.resolve().is_relative_to(os.path.realpath(path))
