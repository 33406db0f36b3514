"""Drafts: artifacts in the making, seen by nobody before their commit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

from services.common.errors import AlreadyExists, DataLoss, NotFound
from services.common.store.artifact_folder import (
    DELETING,
    MANIFEST,
    ArtifactFolder,
    Paths,
    now,
    sha256,
)

READ_AT_ONCE = 64


class Draft:
    """An artifact in the making; ``commit`` makes it exist."""

    def __init__(self, folder: ArtifactFolder) -> None:
        """Opens the draft, with files of an unfinished earlier one."""
        self.tenant, self.kind, self.id, self.name = (
            folder.tenant,
            folder.kind,
            folder.id,
            folder.name,
        )
        self._folder, self._files = folder, folder.files
        self._written: dict[str, str] = {}
        self._committed: dict[str, str] | None = None
        if folder.exists():
            self._committed = folder.manifest()["files"]

    def write(self, path: str, data: bytes) -> str:
        """Writes a file, or replaces it; all of it or nothing.

        Returns:
            SHA-256 (hex) of ``data``.

        Raises:
            AlreadyExists: If the artifact is committed already and has not these bytes.
            OSError: If the store cannot be written, for example because it is full.
        """
        digest = sha256(data)
        _check_path(path)
        if self._committed is None:
            self._files.write(self._folder.file(path), data)
        elif self._committed.get(path) != digest:
            raise AlreadyExists(self.name, "artifacts never change; use another id")
        self._written[path] = digest
        return digest

    def read(self, path: str) -> bytes:
        """A file of the draft; raises NotFound."""
        _check_path(path)
        data = self._files.read_many([self._folder.file(path)])
        if not data:
            raise NotFound(self.name, f"the draft has no file {path!r}")
        return data[self._folder.file(path)]

    def exists(self, path: str) -> bool:
        """Whether the draft has this file, written now or before a restart."""
        _check_path(path)
        return self._files.has(self._folder.file(path))

    def remove(self, path: str) -> None:
        """Removes a file of the draft, if it is there."""
        _check_path(path)
        with contextlib.suppress(FileNotFoundError):
            self._files.remove(self._folder.file(path))
        self._written.pop(path, None)

    def list(self) -> Paths:
        """Paths of the draft's files, sorted."""
        return [p for p in self._files.list(self._folder.path) if p not in (MANIFEST, DELETING)]

    def commit(self, manifest: Mapping[str, object]) -> str:
        """Makes the artifact exist, with every file of the draft.

        ``name``, ``kind``, ``tenant``, ``create_time`` and ``files`` are filled in.

        Returns:
            SHA-256 (hex) of the manifest.

        Raises:
            AlreadyExists: If the id is taken by an artifact that differs in more than its time.
            DataLoss: If a stored file is not what this draft wrote.
            OSError: If the store cannot be written, for example because it is full.
        """
        full = {
            **manifest,
            "name": self.name,
            "kind": self.kind,
            "tenant": self.tenant,
            "create_time": now(),
            "files": self._stored_digests(),
        }
        data = json.dumps(full, sort_keys=True, indent=1, allow_nan=False).encode()
        try:
            self._files.write(self._folder.file(MANIFEST), data, exclusive=True)
        except FileExistsError:
            existing = self._folder.manifest_bytes()
            if {**json.loads(existing), "create_time": ""} != {
                **json.loads(data),
                "create_time": "",
            }:
                raise AlreadyExists(self.name, "artifacts never change; use another id") from None
            return sha256(existing)
        return sha256(data)

    def discard(self) -> None:
        """Removes what was written, unless it was committed."""
        if not self._folder.exists():
            self._files.remove_folder(self._folder.path)

    def _stored_digests(self) -> dict[str, str]:
        # Read back: a runner that lost its lease may have written over our files.
        stored: dict[str, str] = {}
        for group in in_groups(self.list(), READ_AT_ONCE):
            found = self._files.read_many([self._folder.file(path) for path in group])
            for path in group:
                stored[path] = sha256(found[self._folder.file(path)])
        for path, digest in self._written.items():
            if stored.get(path) != digest:
                raise DataLoss(f"{self.name}: file {path!r} changed while it was written")
        return stored


def in_groups(items: list[str], size: int) -> Iterator[list[str]]:
    """``items`` in lists of ``size``, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"malformed artifact path {path!r}")
    if path in (MANIFEST, DELETING) or path.endswith(".tmp"):
        raise ValueError(f"reserved artifact path {path!r}")
