"""Files below one fsspec root: whole or not there, never in between."""

from __future__ import annotations

import builtins
import contextlib
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class StoreFiles:
    """The store's file system; paths are relative to the root."""

    def __init__(self, store_uri: str) -> None:
        if store_uri.startswith("file://"):  # a folder's name may hold "::", fsspec's own sign
            self._fs: Any = LocalFileSystem(use_listings_cache=False)
            root = store_uri.removeprefix("file://")
        else:
            self._fs, root = fsspec.url_to_fs(store_uri, use_listings_cache=False)
        self._root = root.rstrip("/")
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def full_path(self, path: str) -> str:
        """Path on the file system; a path of the machine if ``is_local``."""
        return f"{self._root}/{path}"

    def has(self, path: str) -> bool:
        """Whether the file exists; failures of the store are raised."""
        # Not fsspec's isfile, which takes any failure for absence: no proof of a deletion.
        try:
            found = self._fs.info(self.full_path(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return bool(found["type"] == "file")

    def read(self, path: str) -> bytes:
        """A file; raises FileNotFoundError."""
        data: bytes = self._fs.cat_file(self.full_path(path))
        return data

    def read_many(self, paths: list[str]) -> dict[str, bytes]:
        """Contents of the files that exist, fetched together where possible."""
        found: dict[str, bytes] = {}
        if self.is_local:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    found[path] = Path(self.full_path(path)).read_bytes()
            return found
        if not paths:
            return found
        full = {self.full_path(path): path for path in paths}
        answers: Any = self._fs.cat(list(full), on_error="return")
        if isinstance(answers, bytes):  # some file systems unwrap a single path
            return {paths[0]: answers}
        for path, answer in answers.items():
            if isinstance(answer, bytes):
                found[full[path]] = answer
            elif not isinstance(answer, FileNotFoundError):
                raise answer
        return found

    def write(self, path: str, data: bytes, exclusive: bool = False) -> None:
        """Writes all of a file or nothing.

        Raises:
            FileExistsError: If it is there already and ``exclusive`` is set.
        """
        target = self.full_path(path)
        if not self.is_local:
            self._fs.pipe_file(target, data, mode="create" if exclusive else "overwrite")
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{target}.{secrets.token_hex(4)}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if exclusive:
                    file.flush()
                    os.fsync(file.fileno())
            if exclusive:
                os.link(temporary, target)
            else:
                os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def rename(self, path: str, new_path: str) -> None:
        """Renames a file; takes no room on a local disk. Raises FileNotFoundError."""
        if self.is_local:
            os.replace(self.full_path(path), self.full_path(new_path))
        else:
            self.write(new_path, self.read(path))
            self.remove(path)

    def remove(self, path: str) -> None:
        """Removes a file."""
        self._fs.rm_file(self.full_path(path))

    def remove_folder(self, folder: str) -> None:
        """Removes a folder and its content, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self.full_path(folder), recursive=True)

    def list(self, folder: str) -> list[str]:
        """Relative paths of all files below ``folder``, without half-written ones."""
        prefix = self._fs._strip_protocol(self.full_path(folder)) + "/"
        return sorted(
            path.removeprefix(prefix)
            for path in self._fs.find(self.full_path(folder))
            if path.startswith(prefix) and not path.endswith(".tmp")
        )

    def folders(self, folder: str) -> builtins.list[str]:
        """Names directly in ``folder``, sorted."""
        try:
            entries = self._fs.ls(self.full_path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries)

    def modified(self, path: str) -> float:
        """Time of the last write, seconds since 1970; 0 if gone."""
        try:
            modified: datetime = self._fs.modified(self.full_path(path))
        except FileNotFoundError:
            return 0.0
        return modified.timestamp()
