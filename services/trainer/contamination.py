"""Proof that no model behind a result was trained on an image of the locked test set.

Manifests list what a model was trained on: SHA-256 digests (``digests``), which find the same file
again, and perceptual hashes (``phashes``), which find the same cell in another file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from services.common import resource_names
from services.common.artifact_store import ArtifactStore
from services.common.bases import resolve_base
from services.common.errors import FailedPrecondition
from services.common.near_copies import NEAR_COPY_BITS
from services.common.resource_names import ADAPTERS
from services.trainer.classifier_base import classifier_base, describe_base
from services.trainer.classifier_recipe import ClassifierRecipe
from services.trainer.config import TrainerSettings
from services.trainer.datasets import side_digests


def check_contamination(
    spec: Mapping[str, Any],
    recipe: ClassifierRecipe,
    dataset: Mapping[str, Any],
    store: ArtifactStore,
    tenant: str,
    settings: TrainerSettings,
) -> None:
    """Makes sure that no model behind the classifier was trained on an image of the test set.

    Raises:
        FailedPrecondition: Naming the model and what to use instead.
    """
    for subject, manifest, remedy in _models(spec, recipe, store, tenant, settings):
        check_blind(subject, manifest, dataset, remedy)


def check_blind(
    subject: str, manifest: Mapping[str, Any], dataset: Mapping[str, Any], remedy: str
) -> None:
    """Makes sure that one model has not seen the locked test images of a dataset.

    Args:
        subject: What to call the model.
        manifest: The model's.
        dataset: The dataset's manifest.
        remedy: What to do instead.

    Raises:
        FailedPrecondition: If it has seen one of them, or a near-copy of one.
    """
    locked = [each for side in side_digests(dict(dataset), "test").values() for each in side]
    num_same = len(set(locked) & set(manifest.get("digests", ())))
    if num_same:
        problem = f"was trained on {num_same} of the {len(locked)} locked test images"
        raise FailedPrecondition(subject, problem, remedy)
    images = dataset["body"]["images"]
    num_near = num_near_copies(
        [images[digest]["phash"] for digest in locked], manifest.get("phashes", ())
    )
    if num_near:
        problem = (
            f"was trained on near-copies of {num_near} of the {len(locked)} locked test images"
        )
        raise FailedPrecondition(subject, problem, remedy)


def training_phashes(dataset: Mapping[str, Any]) -> list[str]:
    """Perceptual hashes of a dataset's training images, for the manifest of what learns them."""
    images = dataset["body"]["images"]
    sides = side_digests(dict(dataset), "train").values()
    return sorted({images[digest]["phash"] for side in sides for digest in side})


def num_near_copies(hashes: list[str], known: list[str] | tuple[str, ...]) -> int:
    """How many of ``hashes`` are within ``NEAR_COPY_BITS`` of one of ``known`` (16 hex digits)."""
    if not hashes or not known:
        return 0
    ours, theirs = (
        np.array([int(each, 16) for each in group], np.uint64) for group in (hashes, known)
    )
    near = [np.any(np.bitwise_count(theirs ^ each) <= NEAR_COPY_BITS) for each in ours]
    return int(np.sum(near))


def _models(
    spec: Mapping[str, Any],
    recipe: ClassifierRecipe,
    store: ArtifactStore,
    tenant: str,
    settings: TrainerSettings,
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Subject, manifest and remedy of every model involved."""
    base = classifier_base(recipe, settings.models_dir)
    if base is not None:
        subject, remedy = describe_base(base)
        yield subject, base.manifest, remedy
    synthetic = spec.get("synthetic")
    if synthetic:
        adapter_id = resource_names.parse(ADAPTERS, synthetic["adapter"], "synthetic.adapter")
        adapter = store.get_manifest(tenant, ADAPTERS, adapter_id)
        yield synthetic["adapter"], adapter, "train the adapter on this dataset"
        diffusion = resolve_base(adapter["base"], settings.models_dir, "synthetic.adapter")
        remedy = "train the adapter on a base that has not, for example cyto-small-phantoms"
        yield f"base {diffusion.name}", diffusion.manifest, remedy
