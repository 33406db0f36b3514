"""Makes further few-shot splits of a dataset that share its images.

A study needs several splits of the same images. Each split is an artifact with a digest, locked
before anything is trained on it, as an uploaded dataset's split is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.common import resource_names
from services.common.errors import AlreadyExists
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.center_crop import crop_of_files, crop_sample
from services.trainer.datasets.manifest import dataset_manifest
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


def resplit(
    store: ArtifactStore,
    tenant: str,
    source_id: str,
    split: SplitSettings,
    dataset_id: str,
    settings: TrainerSettings,
) -> dict[str, Any]:
    """Makes ``datasets/{dataset_id}``, a new split of another dataset's images, unless it exists.

    The centre crop is estimated from the training images of this split, so that no test image
    influences it.

    Returns:
        Manifest of the new dataset; ``body["images_of"]`` names the dataset that holds the images.

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
    draft = store.new_draft(tenant, DATASETS, dataset_id)
    draft.commit(
        dataset_manifest(
            display_name=body["display_name"],
            settings=split,
            split=new,
            center_crop=_crop(store, tenant, source, new, settings),
            images=body["images"],
            notices=(),
            origin={"images_of": resource_names.build(DATASETS, image_home(source))},
            parents=[source["name"]],
        )
    )
    return store.get_manifest(tenant, DATASETS, dataset_id)


def split_of(source: Mapping[str, Any], split: SplitSettings) -> Split:
    """The split that ``resplit`` makes of a dataset's images; raises InvalidArgument."""
    return split_images(_records(source), split, "settings")


def spare_digests(dataset: Mapping[str, Any]) -> dict[str, list[str]]:
    """Digests of images that neither train nor test, by usable class id.

    No image is of a patient with test images, or a near-duplicate of a test image.
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
    source: Mapping[str, Any],
    new: Split,
    settings: TrainerSettings,
) -> float:
    sample = read_in_order(store, tenant, image_home(source), crop_sample(new.train))
    return crop_of_files((data for _, data in sample), settings.image_limits)
