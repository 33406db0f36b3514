"""Reads datasets back: which images train, which test, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from services.common import resource_names
from services.common.database.jobs import JobDatabase
from services.common.deletions import delete_artifact
from services.common.errors import NotFound
from services.common.images.codec import center_square, decode_image
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore, DeletionProof
from services.trainer.config import TrainerSettings

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class SplitImages:
    """Decoded images of a dataset, sorted by class id, then digest.

    Attributes:
        images: uint8 (N, size, size, 3).
        class_ids: Class id per image, N of them.
        digests: SHA-256 (hex) of the stored file per image.
    """

    images: np.ndarray
    class_ids: tuple[str, ...]
    digests: tuple[str, ...]


def image_path(sha256: str) -> str:
    """Path of an image inside its dataset artifact."""
    return f"images/{sha256}"


def image_home(manifest: Mapping[str, Any]) -> str:
    """Id of the dataset that holds the images of a manifest."""
    name = manifest["body"].get("images_of") or manifest["name"]
    return resource_names.parse(DATASETS, name, "dataset")


def delete_dataset(
    store: ArtifactStore, database: JobDatabase, tenant: str, dataset_id: str
) -> DeletionProof:
    """Deletes a dataset, and before it every other split of its images.

    Returns:
        Proof for the dataset itself.
    """
    for name in splits_of(store, tenant, resource_names.build(DATASETS, dataset_id)):
        split_id = resource_names.parse(DATASETS, name, "name")
        delete_artifact(store, database, tenant, DATASETS, split_id)
    return delete_artifact(store, database, tenant, DATASETS, dataset_id)


def splits_of(store: ArtifactStore, tenant: str, name: str) -> list[str]:
    """Names of the datasets that are further splits of this one's images."""
    manifests = store.list(tenant, DATASETS)
    return [each["name"] for each in manifests if each["body"].get("images_of") == name]


def usable_classes(manifest: Mapping[str, Any]) -> list[str]:
    """Class ids of a dataset that were not left out, sorted."""
    classes = manifest["body"]["classes"]
    return sorted(each for each, split in classes.items() if not split["left_out_reason"])


def digests_of_split(manifest: Mapping[str, Any], split: SplitName) -> dict[str, list[str]]:
    """SHA-256 digests of the images of one split, by usable class id."""
    classes = manifest["body"]["classes"]
    return {class_id: list(classes[class_id][split]) for class_id in usable_classes(manifest)}


def load_images(
    store: ArtifactStore,
    tenant: str,
    dataset_id: str,
    split: SplitName,
    size: int,
    settings: TrainerSettings,
    most: Mapping[str, int] | None = None,
) -> SplitImages:
    """Reads a split's images as centre-cropped squares of ``size`` pixels.

    Args:
        store: Store of the dataset.
        tenant: Owner of the dataset.
        dataset_id: Id of the dataset.
        split: Training or test images.
        size: Edge of the squares, pixels.
        settings: Limits of images.
        most: Images of each class to read at most, the first by digest; None: all.

    Raises:
        NotFound: If there is no such dataset.
        DataLoss: If a stored image is missing or damaged.
    """
    manifest = store.get_manifest(tenant, DATASETS, dataset_id)
    members = digests_of_split(manifest, split)
    if most is not None:
        members = {each: found[: most.get(each, 0)] for each, found in members.items()}
    return load_members(store, tenant, manifest, members, size, settings)


def load_members(
    store: ArtifactStore,
    tenant: str,
    manifest: Mapping[str, Any],
    members: Mapping[str, Sequence[str]],
    size: int,
    settings: TrainerSettings,
) -> SplitImages:
    """As ``load_images``, for given digests by class id."""
    crop, home = manifest["body"]["center_crop"], image_home(manifest)
    arrays, class_ids, digests = [], [], []
    for class_id, chosen in members.items():
        for digest, data in read_in_order(store, tenant, home, chosen):
            arrays.append(
                center_square(decode_image(data, digest, settings.image_limits), crop, size)
            )
            class_ids.append(class_id)
            digests.append(digest)
    images = np.stack(arrays) if arrays else np.zeros((0, size, size, 3), np.uint8)
    return SplitImages(images, tuple(class_ids), tuple(digests))


def dataset_id_of(store: ArtifactStore, tenant: str, name: str, field_path: str) -> str:
    """The id in a dataset name, if the dataset exists.

    Raises:
        InvalidArgument: If ``name`` is no dataset name.
        NotFound: If this tenant has no such dataset.
    """
    dataset_id = resource_names.parse(DATASETS, name, field_path)
    if not store.exists(tenant, DATASETS, dataset_id):
        raise NotFound(name, "upload or import it first")
    return dataset_id


def read_in_order(
    store: ArtifactStore, tenant: str, dataset_id: str, digests: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Digest and encoded bytes of images that a dataset holds itself.

    Errors are those of ``load_images``.
    """
    for start in range(0, len(digests), 64):
        group = digests[start : start + 64]
        files = store.read_many(tenant, DATASETS, dataset_id, [image_path(d) for d in group])
        for digest in group:
            yield digest, files[image_path(digest)]
