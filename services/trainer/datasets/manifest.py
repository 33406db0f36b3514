"""The manifest of a dataset, written by uploads, imports and further splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

from services.common.store.code_version import code_version
from services.trainer.datasets.splitting import Split, SplitSettings


class StoredImage(TypedDict):
    """Image in a manifest; ``phash`` is 16 hex digits, sizes are pixels."""

    class_id: str
    file_name: str
    patient_id: str
    phash: str
    width: int
    height: int


class Origin(TypedDict, total=False):
    """Digest of an upload's content, or name of the images' dataset."""

    content_digest: str
    images_of: str


class DatasetBody(Origin):
    """What only manifests of datasets have; ``classes`` are ``ClassSplit`` by class id."""

    display_name: str
    center_crop: float
    split_digest: str
    notices: list[str]
    classes: dict[str, dict[str, Any]]
    images: dict[str, StoredImage]


class SplitRecord(TypedDict):
    """Settings of a dataset; ``split`` is ``SplitSettings`` as JSON."""

    split: dict[str, Any]


class DatasetManifest(TypedDict):
    """The manifest of a dataset, as it is committed."""

    parents: list[str]
    seed: int
    settings: SplitRecord
    code_version: str
    metrics: dict[str, float]
    digests: list[str]
    body: DatasetBody


def dataset_manifest(
    *,
    display_name: str,
    settings: SplitSettings,
    split: Split,
    center_crop: float,
    images: Mapping[str, StoredImage],
    notices: Sequence[str],
    origin: Origin,
    parents: Sequence[str] = (),
) -> DatasetManifest:
    """The manifest to commit.

    Args:
        display_name: Free text.
        settings: How the images were split.
        split: The split.
        center_crop: Share of the shorter edge to keep, above 0, at most 1.
        images: By SHA-256 (hex).
        notices: What a user must know, before what the split adds.
        origin: Where the images are from.
        parents: Artifacts that it was made of.
    """
    return {
        "parents": list(parents),
        "seed": settings.seed,
        "settings": {"split": asdict(settings)},
        "code_version": code_version(),
        "metrics": {},
        "digests": split.train,
        "body": {
            "display_name": display_name,
            "center_crop": center_crop,
            "split_digest": split.digest,
            "notices": [*notices, *split.notices],
            "classes": {each.class_id: asdict(each) for each in split.classes},
            "images": dict(images),
            **origin,
        },
    }
