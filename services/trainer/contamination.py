"""Proof that no model behind a classifier was trained on an image of the locked test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.common import resource_names
from services.common.artifact_store import ArtifactStore
from services.common.bases import resolve_base
from services.common.clip_bases import resolve_clip_base
from services.common.errors import FailedPrecondition
from services.common.resource_names import ADAPTERS
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
    test = {digest for side in side_digests(dict(dataset), "test").values() for digest in side}
    for subject, digests, remedy in _training_digests(spec, recipe, store, tenant, settings):
        seen = len(test & set(digests))
        if seen:
            raise FailedPrecondition(
                subject, f"was trained on {seen} of the {len(test)} locked test images", remedy
            )


def _training_digests(
    spec: Mapping[str, Any],
    recipe: ClassifierRecipe,
    store: ArtifactStore,
    tenant: str,
    settings: TrainerSettings,
) -> Iterator[tuple[str, list[str], str]]:
    """Subject, digests of the real images it has seen, and the remedy, of every model involved."""
    if recipe.clip_base:
        clip = resolve_clip_base(recipe.clip_base, settings.models_dir)
        remedy = "use a CLIP base that has not, for example cyto-clip-phantoms"
        yield f"CLIP base {clip.name}", clip.manifest.get("digests", []), remedy
    synthetic = spec.get("synthetic")
    if synthetic:
        adapter_id = resource_names.parse(ADAPTERS, synthetic["adapter"], "synthetic.adapter")
        adapter = store.get_manifest(tenant, ADAPTERS, adapter_id)
        remedy = "train the adapter on this dataset"
        yield synthetic["adapter"], adapter.get("digests", []), remedy
        base = resolve_base(adapter["base"], settings.models_dir, "synthetic.adapter")
        remedy = "train the adapter on a base that has not, for example cyto-small-phantoms"
        yield f"base {base.name}", base.manifest.get("digests", []), remedy
