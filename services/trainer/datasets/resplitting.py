"""Draws another few-shot split of a dataset: a dataset of its own that borrows the images.

A study needs several splits of the same images. Each is an artifact with a digest, locked before
anything is trained on it, as an uploaded dataset's split is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.common import resource_names
from services.common.errors import AlreadyExists
from services.common.images.codec import decode_image
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.config import TrainerSettings
from services.trainer.datasets.center_crop import estimate_center_crop
from services.trainer.datasets.reading import (
    digests_of_split,
    image_home,
    read_in_order,
    usable_classes,
)
from services.trainer.datasets.splitting import (
    ImageRecord,
    Split,
    SplitSettings,
    group_images,
    split_images,
)
from services.trainer.datasets.upload import MAX_CROP_IMAGES


def resplit(
    store: ArtifactStore,
    tenant: str,
    source_id: str,
    split: SplitSettings,
    dataset_id: str,
    settings: TrainerSettings,
) -> dict[str, Any]:
    """Makes ``datasets/{dataset_id}``, unless it exists: the images of another under a new split.

    The centre crop is estimated from the training images of this split, so that no test image
    influences it.

    Returns:
        Its manifest; ``body["images_of"]`` names the dataset that holds the images.

    Raises:
        NotFound: If there is no such source.
        InvalidArgument: If the images cannot be split so.
        AlreadyExists: If the id is taken by another split.
    """
    source = store.get_manifest(tenant, DATASETS, source_id)
    body, new = source["body"], split_of(source, split)
    if store.exists(tenant, DATASETS, dataset_id):
        existing = store.get_manifest(tenant, DATASETS, dataset_id)
        if existing["body"]["split_digest"] != new.digest:
            name = resource_names.build(DATASETS, dataset_id)
            raise AlreadyExists(name, "it holds another split; use another id")
        return existing
    train = sorted(digest for each in new.classes for digest in each.train)
    draft = store.new_draft(tenant, DATASETS, dataset_id)
    draft.commit(
        {
            "parents": [source["name"]],
            "seed": split.seed,
            "settings": {"split": asdict(split)},
            "code_version": code_version(),
            "metrics": {},
            "digests": train,
            "body": {
                "display_name": body["display_name"],
                "images": body["images"],
                "images_of": resource_names.build(DATASETS, image_home(source)),
                "center_crop": _crop(store, tenant, source, new, settings),
                "split_digest": new.digest,
                "notices": list(new.notices),
                "classes": {each.class_id: asdict(each) for each in new.classes},
            },
        }
    )
    return store.get_manifest(tenant, DATASETS, dataset_id)


def split_of(source: Mapping[str, Any], split: SplitSettings) -> Split:
    """The split that ``resplit`` makes of a dataset's images; raises InvalidArgument."""
    return split_images(_records(source), split, "settings")


def spare_digests(dataset: dict[str, Any]) -> dict[str, list[str]]:
    """Images that neither train nor test, by usable class id, in the order of their digests.

    None is of a patient with test images, or a near-duplicate of a test image.
    """
    records = _records(dataset)
    group_of = group_images(records)
    train = {
        digest for digests in digests_of_split(dataset, "train").values() for digest in digests
    }
    testing = {
        group_of[digest]
        for digests in digests_of_split(dataset, "test").values()
        for digest in digests
    }
    spare: dict[str, list[str]] = {class_id: [] for class_id in usable_classes(dataset)}
    for record in sorted(records, key=lambda record: record.sha256):
        free = record.sha256 not in train and group_of[record.sha256] not in testing
        if free and record.class_id in spare:
            spare[record.class_id].append(record.sha256)
    return spare


def _records(dataset: Mapping[str, Any]) -> list[ImageRecord]:
    names = ("class_id", "file_name", "patient_id", "phash")
    return [
        ImageRecord(digest, *(image[name] for name in names))
        for digest, image in dataset["body"]["images"].items()
    ]


def _crop(
    store: ArtifactStore,
    tenant: str,
    source: dict[str, Any],
    new: Split,
    settings: TrainerSettings,
) -> float:
    digests = sorted(digest for each in new.classes for digest in each.train)
    sample = digests[:: max(1, len(digests) // MAX_CROP_IMAGES)]
    arrays = [
        decode_image(data, digest, settings.image_limits)
        for digest, data in read_in_order(store, tenant, image_home(source), sample)
    ]
    return round(float(estimate_center_crop(arrays)), 3)
