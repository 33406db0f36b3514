"""Proof that no model behind a result has seen a test image.

Manifests list what a model was trained on: SHA-256 digests (``digests``), which find the same file
again, and perceptual hashes (``phashes``), which find the same cell in another file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.common import resource_names
from services.common.models.diffusion_bases import resolve_base
from services.common.resource_names import ADAPTERS
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers.pretrained import classifier_base, describe_base
from services.trainer.classifiers.recipe import Hyperparameters
from services.trainer.config import TrainerSettings
from services.trainer.datasets.leakage import check_blind


def check_leakage(
    spec: Mapping[str, Any],
    hparams: Hyperparameters,
    dataset: Mapping[str, Any],
    store: ArtifactStore,
    tenant: str,
    settings: TrainerSettings,
) -> None:
    """Checks that no model behind a classifier has seen test images.

    Raises:
        FailedPrecondition: Naming the model and what to use instead.
    """
    for subject, manifest, remedy in _models(spec, hparams, store, tenant, settings):
        check_blind(subject, manifest, dataset, remedy)


def _models(
    spec: Mapping[str, Any],
    hparams: Hyperparameters,
    store: ArtifactStore,
    tenant: str,
    settings: TrainerSettings,
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Subject, manifest and remedy of every model involved."""
    base = classifier_base(hparams, settings.models_dir)
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
