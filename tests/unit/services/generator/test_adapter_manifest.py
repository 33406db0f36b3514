"""Adapters: what their manifests say, and which of them a base takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from services.common.models.diffusion_bases import Base
from services.common.store.artifacts import ArtifactStore
from services.generator.adapter_manifest import AdapterRef, check_base, describe_adapter

BASE = Base("tiny", "/models/tiny", "r1", {})
MANIFEST: dict[str, Any] = {
    "base": "tiny",
    "base_revision": "r1",
    "body": {"layout": "shared", "class_ids": ["basophil", "monocyte"]},
}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def write(
    store: ArtifactStore, adapter_id: str, manifest: dict[str, Any], data: bytes = b""
) -> None:
    draft = store.new_draft("local", "adapters", adapter_id)
    draft.write("shared/pytorch_lora_weights.safetensors", data)
    draft.commit(manifest)


def test_adapter_is_what_its_manifest_says(store: ArtifactStore) -> None:
    write(store, "one", MANIFEST)
    adapter = describe_adapter(store, "local", "one")
    assert adapter.name == "adapters/one" and adapter.layout == "shared"
    assert adapter.class_ids == ("basophil", "monocyte")
    assert (adapter.base, adapter.base_revision) == ("tiny", "r1")
    check_base(adapter, BASE)


def test_digest_stands_for_the_weights(store: ArtifactStore) -> None:
    for adapter_id, data in (("one", b"a"), ("other", b"b")):
        write(store, adapter_id, MANIFEST, data)
    one, other = (describe_adapter(store, "local", name) for name in ("one", "other"))
    assert one.digest != other.digest
    assert one == describe_adapter(store, "local", "one")


def test_digest_is_that_of_an_adapter_fitted_again(store: ArtifactStore) -> None:
    # Its manifest holds the time of its making: images must not depend on that.
    write(store, "one", MANIFEST | {"fitted": "on Monday"}, b"a")
    write(store, "again", MANIFEST | {"fitted": "on Tuesday"}, b"a")
    one, again = (describe_adapter(store, "local", name) for name in ("one", "again"))
    assert one.digest == again.digest


def test_weights_lie_in_the_class_folder_unless_shared() -> None:
    shared = AdapterRef("one", "d", "shared", ("monocyte",), "tiny", "r1")
    file = "pytorch_lora_weights.safetensors"
    assert shared.weights_path("monocyte") == f"shared/{file}"
    assert replace(shared, layout="per_class").weights_path("monocyte") == f"monocyte/{file}"


def test_adapter_of_another_tenant_is_not_found(store: ArtifactStore) -> None:
    write(store, "one", MANIFEST)
    with pytest.raises(NotFound):
        describe_adapter(store, "neighbour", "one")


@pytest.mark.parametrize("missing", ["base", "base_revision", "layout", "class_ids"])
def test_manifest_that_lacks_something_is_data_loss(store: ArtifactStore, missing: str) -> None:
    body = {key: value for key, value in MANIFEST["body"].items() if key != missing}
    manifest = {key: value for key, value in MANIFEST.items() if key != missing} | {"body": body}
    write(store, "bare", manifest)
    with pytest.raises(DataLoss, match=f"adapters/bare.*{missing}"):
        describe_adapter(store, "local", "bare")


def test_unknown_layout_is_data_loss(store: ArtifactStore) -> None:
    write(store, "odd", MANIFEST | {"body": MANIFEST["body"] | {"layout": "stacked"}})
    with pytest.raises(DataLoss, match="stacked"):
        describe_adapter(store, "local", "odd")


def test_adapter_of_another_base_or_revision_is_refused() -> None:
    adapter = AdapterRef("one", "d", "shared", ("monocyte",), "tiny", "r1")
    with pytest.raises(InvalidArgument, match="'tiny', not on 'other'"):
        check_base(adapter, replace(BASE, name="other"))
    with pytest.raises(FailedPrecondition, match="another revision"):
        check_base(adapter, replace(BASE, revision="r2"))
