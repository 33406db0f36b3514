"""Manifests of LoRA adapters in the store.

An adapter artifact holds ``shared/pytorch_lora_weights.safetensors`` (one LoRA for all its
classes) or ``<class_id>/pytorch_lora_weights.safetensors`` (one per class).  The hashes in
``near_copy_hashes.json`` find near-duplicates of its training images; older adapters have none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.common.errors import DataLoss, FailedPrecondition, InvalidArgument
from services.common.images.near_duplicates import NEAR_DUPLICATE_HASHES
from services.common.models.diffusion_bases import Base
from services.common.models.lora import WEIGHTS_FILE
from services.common.resource_names import ADAPTERS, build
from services.common.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class AdapterRef:
    """An adapter as its manifest describes it.

    Attributes:
        adapter_id: Last part of its resource name.
        digest: SHA-256 (hex) over the paths and digests of its weights and of the hashes of its
            training images, and of nothing else: they decide which images it gives, whenever it
            was fitted.
        layout: "shared" or "per_class".
        class_ids: Classes that it was fitted on.
        base: Name of the base it was fitted on.
        base_revision: Revision of that base at the time.
        has_hashes: Whether it has hashes of its training images.
    """

    adapter_id: str
    digest: str
    layout: str
    class_ids: tuple[str, ...]
    base: str
    base_revision: str
    has_hashes: bool = False

    @property
    def name(self) -> str:
        """Resource name."""
        return build(ADAPTERS, self.adapter_id)

    def weights_path(self, class_id: str) -> str:
        """Path, within the artifact, of the weights of a class."""
        folder = "shared" if self.layout == "shared" else class_id
        return f"{folder}/{WEIGHTS_FILE}"


def describe_adapter(store: ArtifactStore, tenant: str, adapter_id: str) -> AdapterRef:
    """Read an adapter's manifest.

    Raises:
        NotFound: If this tenant has no such adapter.
        DataLoss: If its manifest lacks what the generator needs.
    """
    manifest = store.get_manifest(tenant, ADAPTERS, adapter_id)
    body = manifest.get("body", manifest)
    try:
        ref = AdapterRef(
            adapter_id=adapter_id,
            digest=_digest(manifest["files"]),
            layout=str(body["layout"]),
            class_ids=tuple(body["class_ids"]),
            base=str(manifest["base"]),
            base_revision=str(manifest["base_revision"]),
            has_hashes=NEAR_DUPLICATE_HASHES in manifest["files"],
        )
    except KeyError as missing:
        problem = f"{build(ADAPTERS, adapter_id)}: its manifest has no {missing}"
        raise DataLoss(problem, "fit the adapter again") from missing
    if ref.layout not in ("shared", "per_class"):
        raise DataLoss(f"{ref.name}: unknown layout {ref.layout!r}", "fit the adapter again")
    return ref


def _digest(files: dict[str, str]) -> str:
    deciding = sorted(
        item for item in files.items() if item[0].endswith((WEIGHTS_FILE, NEAR_DUPLICATE_HASHES))
    )
    lines = "".join(f"{path}\0{digest}\n" for path, digest in deciding)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_base(adapter: AdapterRef, base: Base) -> None:
    """Check that an adapter was fitted on exactly this base.

    Raises:
        InvalidArgument: If it was fitted on a base of another name.
        FailedPrecondition: If the base's weights have changed since.
    """
    if adapter.base != base.name:
        problem = f"{adapter.name} was fitted on base {adapter.base!r}, not on {base.name!r}"
        remedy = f"leave base empty or send {adapter.base!r}, or fit an adapter on {base.name!r}"
        raise InvalidArgument("adapter", problem, remedy)
    if adapter.base_revision != base.revision:
        problem = f"was fitted on another revision of base {base.name!r} than this server has"
        raise FailedPrecondition(adapter.name, problem, "fit the adapter again on this base")
