"""One artifact's folder in the store, and its manifest."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from services.common import resource_names
from services.common.errors import NotFound
from services.common.store.files import StoreFiles

Paths = list[str]

MANIFEST = "manifest.json"
DELETING = "deleting.json"


class ArtifactFolder:
    """``tenants/<tenant>/<kind>/<id>``; the artifact exists while the folder has a manifest."""

    def __init__(self, files: StoreFiles, tenant: str, kind: str, id: str) -> None:
        """Names the folder; nothing is read or created.

        Raises:
            ValueError: For a malformed tenant, kind or id (a bug, not a client's mistake).
        """
        self.files, self.tenant, self.kind, self.id = files, checked_tenant(tenant), kind, id
        self.name = resource_names.build(kind, id)
        self.path = f"tenants/{tenant}/{self.name}"

    def file(self, path: str) -> str:
        """Path of one file of the artifact, below the store's root."""
        return f"{self.path}/{path}"

    def exists(self) -> bool:
        """Whether the artifact was committed and not deleted."""
        return self.files.has(self.file(MANIFEST))

    def manifest_bytes(self) -> bytes:
        """The manifest as stored; raises NotFound."""
        try:
            return self.files.read(self.file(MANIFEST))
        except FileNotFoundError:
            raise self.not_found() from None

    def not_found(self) -> NotFound:
        """The error for an artifact that does not exist."""
        return NotFound(self.name, f"list {self.kind} to see what there is")

    def manifest(self) -> dict[str, Any]:
        """The manifest; raises NotFound."""
        manifest: dict[str, Any] = json.loads(self.manifest_bytes())
        return manifest


def checked_tenant(tenant: str) -> str:
    """``tenant``, or ValueError where it could not be a folder."""
    if not resource_names.is_id(tenant):
        raise ValueError(f"malformed tenant {tenant!r}")
    return tenant


def sha256(data: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(data).hexdigest()


def now() -> str:
    """The time as manifests and proofs give it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
