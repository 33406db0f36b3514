"""Lists a folder: images, tables, and what is left out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cytosynth.image_folder.problems import left_out, printable

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
TEXT_TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt"})
_TABLE_SUFFIXES = TEXT_TABLE_SUFFIXES | {".xlsx", ".xls", ".xlsm", ".ods"}
# What accompanies a collection and is not worth a notice at its top.
_DOCUMENT_SUFFIXES = frozenset({"", ".md", ".rst", ".json", ".jsonl", ".pdf", ".html", ".yaml"})
_SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_MAX_DEPTH = 32

_NOT_AN_IMAGE = "not an image by its name"
_NO_CLASS = "it lies in no class folder"
_HIDDEN = "hidden or a file of the system"
_LINK = "links that are not followed"
_SPECIAL = "neither a file nor a folder"


@dataclass(frozen=True)
class Entry:
    """Listed file or folder; ``name`` is the last part of its path."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    num_bytes: int = 0


class Files(Protocol):
    """Folder on any file system, with relative paths; "" is the top."""

    def entries(self, path: str) -> list[Entry]:
        """What lies in a folder, in any order; raises OSError."""

    def read(self, path: str, most_bytes: int) -> bytes:
        """The first bytes of a file; raises OSError."""

    def shown(self, path: str) -> str:
        """How a user names the path."""

    def command(self, path: str) -> str:
        """The command that makes a dataset of the folder at the path."""


@dataclass(frozen=True)
class FoundFile:
    """File in the tree; ``parts`` are names from the top down."""

    parts: tuple[str, ...]
    num_bytes: int

    @property
    def path(self) -> str:
        """Path below the top, with slashes."""
        return "/".join(self.parts)


@dataclass
class Found:
    """What a walk came upon, in the order of the paths' parts."""

    images: list[FoundFile] = field(default_factory=list)
    tables: list[FoundFile] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    omitted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def notices(self) -> list[str]:
        """What is left out, one line for each reason."""
        lines = [left_out(names, reason) for reason, names in self.omitted.items()]
        if self.empty_classes:
            lines.append(left_out(self.empty_classes, "the class folder holds no images"))
        return lines


def walk(files: Files, *, with_classes: bool = True) -> Found:
    """List the tree. Folders that cannot be listed are in ``unreadable``.

    Args:
        files: The tree.
        with_classes: Whether images lie in class folders, and tables beside them; otherwise
            images may lie at the top, and tables are left out.
    """
    return _Walk(files, with_classes).found


class _Walk:
    def __init__(self, files: Files, with_classes: bool) -> None:
        self._files, self._with_classes = files, with_classes
        self.found = Found()
        self._folder(())

    def _folder(self, folder: tuple[str, ...]) -> None:
        found = self.found
        try:
            entries = sorted(self._files.entries("/".join(folder)), key=lambda entry: entry.name)
        except OSError:
            found.unreadable.append(printable("/".join(folder)))
            return
        for entry in entries:
            parts = (*folder, entry.name)
            name = printable("/".join(parts))
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                found.omitted[_HIDDEN].append(name)
            elif entry.kind == "folder":
                num_images = len(found.images)
                if len(parts) > _MAX_DEPTH:
                    found.unreadable.append(name)
                else:
                    self._folder(parts)
                if not folder and len(found.images) == num_images and self._with_classes:
                    found.empty_classes.append(name)
            elif entry.kind != "file":
                found.omitted[_LINK if entry.kind == "link" else _SPECIAL].append(name)
            else:
                self._file(FoundFile(parts, entry.num_bytes), name)

    def _file(self, file: FoundFile, name: str) -> None:
        found = self.found
        _, dot, ending = file.parts[-1].rpartition(".")
        suffix = f"{dot}{ending}".lower() if dot else ""
        above_classes = self._with_classes and len(file.parts) == 1
        is_table = suffix in _TABLE_SUFFIXES and (above_classes or suffix != ".txt")
        if suffix in IMAGE_SUFFIXES and above_classes:
            found.omitted[_NO_CLASS].append(name)
        elif suffix in IMAGE_SUFFIXES:
            found.images.append(file)
        elif is_table and self._with_classes:
            found.tables.append(file)
        elif not (above_classes and suffix in _DOCUMENT_SUFFIXES):
            found.omitted[_NOT_AN_IMAGE].append(name)
