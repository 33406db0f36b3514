"""Keeps artifacts: folders of files with a manifest, written once and never changed.

Layout, on any fsspec file system: ``<root>/tenants/<tenant>/<kind>/<id>/<files>``.  The
manifest is written last, so that an artifact without one does not exist: a crash leaves
a stale draft, never half an artifact.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.common import resource_names
from services.common.errors import AlreadyExists, DataLoss, NotFound
from services.common.store.files import StoreFiles

Manifests = list[dict[str, Any]]
Paths = list[str]

MANIFEST = "manifest.json"
DELETING = "deleting.json"
_READ_AT_ONCE = 64


class ArtifactStore:
    """All tenants' artifacts under one URI. Safe to share between threads."""

    def __init__(self, store_uri: str, cache_dir: Path | None = None) -> None:
        """Opens the store; nothing is created before the first write.

        Args:
            store_uri: fsspec URI, for example ``file:///data/store`` or ``s3://bucket/prefix``.
            cache_dir: Where ``local_copy`` keeps files of a store that is not local.
        """
        self._files = StoreFiles(store_uri)
        self._store_id = _sha256(store_uri.encode())[:16]
        self._cache_dir = cache_dir or Path(tempfile.gettempdir()) / "cytosynth-cache"
        self._file_digests: dict[str, dict[str, str]] = {}

    def new_draft(self, tenant: str, kind: str, id: str) -> Draft:
        """A draft of the artifact; files of an unfinished draft of the same id are kept."""
        return Draft(self, tenant, kind, id)

    def exists(self, tenant: str, kind: str, id: str) -> bool:
        """Whether the artifact was committed and not deleted."""
        return self._files.has(f"{self._folder(tenant, kind, id)}/{MANIFEST}")

    def get_manifest(self, tenant: str, kind: str, id: str) -> dict[str, Any]:
        """The artifact's manifest.

        Raises:
            NotFound: If this tenant has no such artifact.
        """
        manifest: dict[str, Any] = json.loads(self._manifest_bytes(tenant, kind, id))
        return manifest

    def manifest_digest(self, tenant: str, kind: str, id: str) -> str:
        """SHA-256 (hex) of the manifest as stored; raises NotFound."""
        return _sha256(self._manifest_bytes(tenant, kind, id))

    def read(self, tenant: str, kind: str, id: str, path: str) -> bytes:
        """One file, checked against its digest.

        Raises:
            NotFound: If there is no such artifact, or no such file in it.
            DataLoss: If the stored bytes are not those of the manifest.
        """
        return self.read_many(tenant, kind, id, [path])[path]

    def read_many(self, tenant: str, kind: str, id: str, paths: Iterable[str]) -> dict[str, bytes]:
        """Several files by path, fetched together where the store can; raises as ``read``."""
        folder, digests = self._folder(tenant, kind, id), self._digests(tenant, kind, id)
        contents: dict[str, bytes] = {}
        for group in _in_groups(list(paths), _READ_AT_ONCE):
            for path in group:
                if path not in digests:
                    raise NotFound(f"{kind}/{id}", f"it has no file {path!r}")
            found = self._files.read_many([f"{folder}/{path}" for path in group])
            if any(f"{folder}/{path}" not in found for path in group):
                self._file_digests.pop(folder, None)
                self._manifest_bytes(tenant, kind, id)  # NotFound if deleted meanwhile
            for path in group:
                data = found.get(f"{folder}/{path}", b"")
                if _sha256(data) != digests[path]:
                    raise DataLoss(
                        f"{kind}/{id}: stored file {path!r} is missing or damaged",
                        "restore it from a backup or make the artifact again",
                    )
                contents[path] = data
        return contents

    def local_copy(self, tenant: str, kind: str, id: str) -> Path:
        """A local folder with the artifact's files; the stored folder itself if it is local.

        Raises:
            NotFound: If there is no such artifact; a copy of a deleted one is removed.
        """
        cached = self._cache_folder(tenant, kind, id)
        try:
            digest = self.manifest_digest(tenant, kind, id)
        except NotFound:
            shutil.rmtree(cached, ignore_errors=True)
            raise
        if self._files.is_local:
            return Path(self._files.full_path(self._folder(tenant, kind, id)))
        target = cached / digest[:16]
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
            files = self.read_many(tenant, kind, id, self._digests(tenant, kind, id))
            files[MANIFEST] = self._manifest_bytes(tenant, kind, id)
            for path, data in files.items():
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                (partial / path).write_bytes(data)
            try:
                partial.rename(target)
            except OSError:  # another process was first
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def list(self, tenant: str, kind: str) -> Manifests:
        """Manifests of the tenant's artifacts of this kind, newest first."""
        manifests = []
        for id in self._ids(f"tenants/{_checked(tenant)}/{kind}"):
            with contextlib.suppress(NotFound):
                manifests.append(self.get_manifest(tenant, kind, id))
        return sorted(manifests, key=lambda m: (m["create_time"], m["name"]), reverse=True)

    def tenants(self) -> Paths:
        """Names of all tenants that have anything here, sorted."""
        return self._ids("tenants")

    def folders(self, tenant: str, kind: str) -> Paths:
        """Ids of the tenant's artifacts of this kind, drafts and half-deleted ones included."""
        return self._ids(f"tenants/{_checked(tenant)}/{kind}")

    def is_being_deleted(self, tenant: str, kind: str, id: str) -> bool:
        """Whether a deletion of it was begun and not finished."""
        return self._files.has(f"{self._folder(tenant, kind, id)}/{DELETING}")

    def delete(self, tenant: str, kind: str, id: str) -> dict[str, Any]:
        """Removes the artifact and looks every object up again.

        The artifact stops existing at once; a deletion that was cut short is completed by
        asking again.

        Returns:
            Proof: ``name``, ``num_objects``, ``digest`` (SHA-256 over sorted paths and file
            digests, manifest included) and ``delete_time`` (ISO 8601, UTC).

        Raises:
            NotFound: If there is no such artifact.
            DataLoss: If an object is still there afterwards.
        """
        folder = self._folder(tenant, kind, id)
        if not self._files.has(f"{folder}/{DELETING}"):
            self._files.write(f"{folder}/{DELETING}", self._manifest_bytes(tenant, kind, id))
        tombstone = self._files.read(f"{folder}/{DELETING}")
        digests = {**json.loads(tombstone)["files"], MANIFEST: _sha256(tombstone)}
        self._file_digests.pop(folder, None)
        if self._files.has(f"{folder}/{MANIFEST}"):
            self._files.remove(f"{folder}/{MANIFEST}")
        present: set[str] = set(self._files.list(folder)) - {DELETING}
        for path in present:
            self._files.remove(f"{folder}/{path}")
        shutil.rmtree(self._cache_folder(tenant, kind, id), ignore_errors=True)
        left = [path for path in present | set(digests) if self._files.has(f"{folder}/{path}")]
        if left:
            raise DataLoss(f"{kind}/{id}: {len(left)} objects could not be deleted", "try again")
        self._files.remove_folder(folder)
        lines = "".join(f"{path}\0{digest}\n" for path, digest in sorted(digests.items()))
        return {
            "name": f"{kind}/{id}",
            "num_objects": len(digests),
            "digest": _sha256(lines.encode()),
            "delete_time": _now(),
        }

    def sweep_drafts(self, older_than_seconds: float) -> int:
        """Removes drafts (folders without a manifest) last written that long ago.

        Returns:
            How many were removed.
        """
        removed = 0
        oldest = datetime.now(UTC).timestamp() - older_than_seconds
        for tenant in self._ids("tenants"):
            for kind in resource_names.KINDS:
                for id in self._ids(f"tenants/{tenant}/{kind}"):
                    folder = self._folder(tenant, kind, id)
                    if self.exists(tenant, kind, id):
                        continue
                    paths = self._files.list(folder)
                    times = [self._files.modified(f"{folder}/{path}") for path in paths]
                    if not times or max(times) < oldest:
                        self._files.remove_folder(folder)
                        removed += 1
        return removed

    def _folder(self, tenant: str, kind: str, id: str) -> str:
        return f"tenants/{_checked(tenant)}/{resource_names.build(kind, id)}"

    def _cache_folder(self, tenant: str, kind: str, id: str) -> Path:
        return self._cache_dir / self._store_id / _checked(tenant) / resource_names.build(kind, id)

    def _manifest_bytes(self, tenant: str, kind: str, id: str) -> bytes:
        try:
            return self._files.read(f"{self._folder(tenant, kind, id)}/{MANIFEST}")
        except FileNotFoundError:
            raise NotFound(f"{kind}/{id}", f"list {kind} to see what there is") from None

    def _digests(self, tenant: str, kind: str, id: str) -> dict[str, str]:
        folder = self._folder(tenant, kind, id)
        if folder not in self._file_digests:
            if len(self._file_digests) >= 64:
                self._file_digests.clear()
            self._file_digests[folder] = self.get_manifest(tenant, kind, id)["files"]
        return self._file_digests[folder]

    def _ids(self, folder: str) -> builtins.list[str]:
        return [name for name in self._files.folders(folder) if resource_names.is_id(name)]


class Draft:
    """An artifact in the making. Nobody else sees it before ``commit``."""

    def __init__(self, store: ArtifactStore, tenant: str, kind: str, id: str) -> None:
        self.tenant, self.kind, self.id = tenant, kind, id
        self.name = resource_names.build(kind, id)
        self._store = store
        self._files = store._files
        self._folder = store._folder(tenant, kind, id)
        self._written: dict[str, str] = {}
        self._committed: dict[str, str] | None = None
        if store.exists(tenant, kind, id):
            self._committed = store.get_manifest(tenant, kind, id)["files"]

    def write(self, path: str, data: bytes) -> str:
        """Writes a file, or replaces it; all of it or nothing.

        Returns:
            SHA-256 (hex) of ``data``.

        Raises:
            AlreadyExists: If the artifact is committed already and has not these bytes.
        """
        digest = _sha256(data)
        _check_path(path)
        if self._committed is None:
            self._files.write(f"{self._folder}/{path}", data)
        elif self._committed.get(path) != digest:
            raise AlreadyExists(self.name, "artifacts never change; use another id")
        self._written[path] = digest
        return digest

    def read(self, path: str) -> bytes:
        """A file of the draft; raises NotFound."""
        _check_path(path)
        data = self._files.read_many([f"{self._folder}/{path}"])
        if not data:
            raise NotFound(self.name, f"the draft has no file {path!r}")
        return data[f"{self._folder}/{path}"]

    def exists(self, path: str) -> bool:
        """Whether the draft has this file, written now or before a restart."""
        _check_path(path)
        return self._files.has(f"{self._folder}/{path}")

    def list(self) -> Paths:
        """Paths of the draft's files, sorted."""
        return [p for p in self._files.list(self._folder) if p not in (MANIFEST, DELETING)]

    def commit(self, manifest: dict[str, Any]) -> str:
        """Makes the artifact exist, with every file that the draft has by now.

        ``name``, ``kind``, ``tenant``, ``create_time`` and ``files`` are filled in.

        Returns:
            SHA-256 (hex) of the manifest.

        Raises:
            AlreadyExists: If the id is taken by an artifact that differs in more than its time.
            DataLoss: If a stored file is not what this draft wrote.
        """
        full = {
            **manifest,
            "name": self.name,
            "kind": self.kind,
            "tenant": self.tenant,
            "create_time": _now(),
            "files": self._stored_digests(),
        }
        data = json.dumps(full, sort_keys=True, indent=1, allow_nan=False).encode()
        try:
            self._files.write(f"{self._folder}/{MANIFEST}", data, exclusive=True)
        except FileExistsError:
            existing = self._store.get_manifest(self.tenant, self.kind, self.id)
            if {**existing, "create_time": ""} != {**json.loads(data), "create_time": ""}:
                raise AlreadyExists(self.name, "artifacts never change; use another id") from None
            return self._store.manifest_digest(self.tenant, self.kind, self.id)
        return _sha256(data)

    def discard(self) -> None:
        """Removes what was written, unless it was committed."""
        if not self._store.exists(self.tenant, self.kind, self.id):
            self._files.remove_folder(self._folder)

    def _stored_digests(self) -> dict[str, str]:
        # Read back: a runner that lost its lease may have written over our files.
        stored: dict[str, str] = {}
        for group in _in_groups(self.list(), _READ_AT_ONCE):
            found = self._files.read_many([f"{self._folder}/{path}" for path in group])
            for path in group:
                stored[path] = _sha256(found[f"{self._folder}/{path}"])
        for path, digest in self._written.items():
            if stored.get(path) != digest:
                raise DataLoss(f"{self.name}: file {path!r} changed while it was written")
        return stored


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _checked(tenant: str) -> str:
    if not resource_names.is_id(tenant):
        raise ValueError(f"malformed tenant {tenant!r}")
    return tenant


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"malformed artifact path {path!r}")
    if path in (MANIFEST, DELETING) or path.endswith(".tmp"):
        raise ValueError(f"reserved artifact path {path!r}")


def _in_groups(items: list[str], size: int) -> Iterable[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
