"""Keeps artifacts: immutable folders of files with a manifest.

Layout, on any fsspec file system: ``<root>/tenants/<tenant>/<kind>/<id>/<files>``.  The
manifest is written last, so that an artifact without one does not exist: a crash leaves
a stale draft, never half an artifact.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from services.common import resource_names
from services.common.errors import DataLoss, NotFound
from services.common.store.artifact_folder import (
    DELETING,
    MANIFEST,
    ArtifactFolder,
    Paths,
    checked_tenant,
    now,
    sha256,
)
from services.common.store.drafts import READ_AT_ONCE, Draft, in_groups
from services.common.store.files import StoreFiles

Manifests = list[dict[str, Any]]


class DeletionProof(TypedDict):
    """What a deletion removed.

    Attributes:
        name: Resource name of the artifact.
        num_objects: Files that it had, the manifest included.
        digest: SHA-256 over sorted paths and file digests, the manifest included.
        delete_time: ISO 8601, UTC.
    """

    name: str
    num_objects: int
    digest: str
    delete_time: str


class ArtifactStore:
    """All tenants' artifacts under one URI. Safe to share between threads."""

    def __init__(self, store_uri: str, cache_dir: Path | None = None) -> None:
        """Opens the store; nothing is created before the first write.

        Args:
            store_uri: fsspec URI, for example ``file:///data/store`` or ``s3://bucket/prefix``.
            cache_dir: Where ``local_copy`` keeps files of a store that is not local.
        """
        self._files = StoreFiles(store_uri)
        self._store_id = sha256(store_uri.encode())[:16]
        self._cache_dir = cache_dir or Path(tempfile.gettempdir()) / "cytosynth-cache"
        self._file_digests: dict[str, dict[str, str]] = {}

    def new_draft(self, tenant: str, kind: str, id: str) -> Draft:
        """A draft of the artifact, with files of an unfinished earlier one."""
        return Draft(self._folder(tenant, kind, id))

    def exists(self, tenant: str, kind: str, id: str) -> bool:
        """Whether the artifact was committed and not deleted."""
        return self._folder(tenant, kind, id).exists()

    def get_manifest(self, tenant: str, kind: str, id: str) -> dict[str, Any]:
        """The artifact's manifest.

        Raises:
            NotFound: If this tenant has no such artifact.
        """
        return self._folder(tenant, kind, id).manifest()

    def manifest_digest(self, tenant: str, kind: str, id: str) -> str:
        """SHA-256 (hex) of the manifest as stored; raises NotFound."""
        return sha256(self._folder(tenant, kind, id).manifest_bytes())

    def read(self, tenant: str, kind: str, id: str, path: str) -> bytes:
        """One file, checked against its digest.

        Raises:
            NotFound: If there is no such artifact, or no such file in it.
            DataLoss: If the stored bytes are not those of the manifest.
        """
        return self.read_many(tenant, kind, id, [path])[path]

    def read_many(self, tenant: str, kind: str, id: str, paths: Iterable[str]) -> dict[str, bytes]:
        """Several files by path, fetched together; raises as ``read``."""
        folder = self._folder(tenant, kind, id)
        digests = self._digests(folder)
        contents: dict[str, bytes] = {}
        for group in in_groups(list(paths), READ_AT_ONCE):
            for path in group:
                if path not in digests:
                    raise NotFound(f"{kind}/{id}", f"it has no file {path!r}")
            found = self._files.read_many([folder.file(path) for path in group])
            if any(folder.file(path) not in found for path in group):
                self._file_digests.pop(folder.path, None)
                folder.manifest_bytes()  # NotFound if deleted meanwhile
            for path in group:
                data = found.get(folder.file(path), b"")
                if sha256(data) != digests[path]:
                    raise DataLoss(
                        f"{kind}/{id}: stored file {path!r} is missing or damaged",
                        "restore it from a backup or make the artifact again",
                    )
                contents[path] = data
        return contents

    def local_copy(self, tenant: str, kind: str, id: str) -> Path:
        """A local folder with the artifact's files, copied where necessary.

        Raises:
            NotFound: If there is no such artifact; a copy of a deleted one is removed.
        """
        folder, cached = self._folder(tenant, kind, id), self._cache_folder(tenant, kind, id)
        try:
            manifest = folder.manifest_bytes()
        except NotFound:
            shutil.rmtree(cached, ignore_errors=True)
            raise
        if self._files.is_local:
            return Path(self._files.full_path(folder.path))
        target = cached / sha256(manifest)[:16]
        if not target.is_dir():
            files = self.read_many(tenant, kind, id, self._digests(folder))
            _write_folder(target, {**files, MANIFEST: manifest})
        return target

    def list(self, tenant: str, kind: str) -> Manifests:
        """Manifests of the tenant's artifacts of this kind, newest first."""
        manifests = []
        for id in self._ids(f"tenants/{checked_tenant(tenant)}/{kind}"):
            with contextlib.suppress(NotFound):
                manifests.append(self.get_manifest(tenant, kind, id))
        return sorted(manifests, key=lambda m: (m["create_time"], m["name"]), reverse=True)

    def tenants(self) -> Paths:
        """Names of all tenants that have anything here, sorted."""
        return self._ids("tenants")

    def folders(self, tenant: str, kind: str) -> Paths:
        """Ids of the tenant's artifacts, drafts and half-deleted ones included."""
        return self._ids(f"tenants/{checked_tenant(tenant)}/{kind}")

    def is_being_deleted(self, tenant: str, kind: str, id: str) -> bool:
        """Whether a deletion of the artifact was begun and not finished."""
        return self._files.has(self._folder(tenant, kind, id).file(DELETING))

    def delete(self, tenant: str, kind: str, id: str) -> DeletionProof:
        """Removes the artifact and looks every object up again.

        The artifact stops existing at once; a deletion that was cut short is completed by
        asking again.

        Raises:
            NotFound: If there is no such artifact.
            DataLoss: If an object is still there afterwards.
        """
        folder = self._folder(tenant, kind, id)
        tombstone = folder.file(DELETING)
        if not self._files.has(tombstone):
            # Renamed, not written: a deletion must work where the disk is full.
            try:
                self._files.rename(folder.file(MANIFEST), tombstone)
            except FileNotFoundError:
                raise folder.not_found() from None
        manifest = self._files.read(tombstone)
        digests = {**json.loads(manifest)["files"], MANIFEST: sha256(manifest)}
        self._file_digests.pop(folder.path, None)
        if folder.exists():
            self._files.remove(folder.file(MANIFEST))
        present: set[str] = set(self._files.list(folder.path)) - {DELETING}
        for path in present:
            self._files.remove(folder.file(path))
        shutil.rmtree(self._cache_folder(tenant, kind, id), ignore_errors=True)
        left = [path for path in present | set(digests) if self._files.has(folder.file(path))]
        if left:
            raise DataLoss(f"{kind}/{id}: {len(left)} objects could not be deleted", "try again")
        self._files.remove_folder(folder.path)
        lines = "".join(f"{path}\0{digest}\n" for path, digest in sorted(digests.items()))
        return {
            "name": folder.name,
            "num_objects": len(digests),
            "digest": sha256(lines.encode()),
            "delete_time": now(),
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
                    if folder.exists():
                        continue
                    paths = self._files.list(folder.path)
                    times = [self._files.modified(folder.file(path)) for path in paths]
                    if not times or max(times) < oldest:
                        self._files.remove_folder(folder.path)
                        removed += 1
        return removed

    def _folder(self, tenant: str, kind: str, id: str) -> ArtifactFolder:
        return ArtifactFolder(self._files, tenant, kind, id)

    def _cache_folder(self, tenant: str, kind: str, id: str) -> Path:
        name = resource_names.build(kind, id)
        return self._cache_dir / self._store_id / checked_tenant(tenant) / name

    def _digests(self, folder: ArtifactFolder) -> dict[str, str]:
        if folder.path not in self._file_digests:
            if len(self._file_digests) >= 64:
                self._file_digests.clear()
            self._file_digests[folder.path] = folder.manifest()["files"]
        return self._file_digests[folder.path]

    def _ids(self, folder: str) -> builtins.list[str]:
        return [name for name in self._files.folders(folder) if resource_names.is_id(name)]


def _write_folder(target: Path, files: dict[str, bytes]) -> None:
    """Writes a local folder whole, unless another process was first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        for path, data in files.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_bytes(data)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
