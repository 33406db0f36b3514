"""The job ``fit_adapter``: trains an Adapter on a dataset's few-shot images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from services.common import resource_names
from services.common.errors import FailedPrecondition
from services.common.images.near_duplicates import NEAR_DUPLICATE_HASHES, NearDuplicateHashes
from services.common.models.diffusion_bases import Base, resolve_base
from services.common.resource_names import ADAPTERS, DATASETS
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.adapters.recipe import AdapterSettings
from services.trainer.config import TrainerSettings
from services.trainer.datasets.leakage import check_blind, training_phashes
from services.trainer.datasets.reading import (
    dataset_id_of,
    digests_of_split,
    load_images,
    usable_classes,
)

if TYPE_CHECKING:
    from services.trainer.jobs.context import JobContext


class AdapterSpec(TypedDict):
    """A checked request: the base named, the settings resolved (``AdapterSettings.to_dict``)."""

    dataset: str
    base: str
    base_revision: str
    settings: dict[str, Any]


def validate(
    spec: Mapping[str, Any], store: ArtifactStore, tenant: str, settings: TrainerSettings
) -> AdapterSpec:
    """Checks a request before a job is made of it.

    Args:
        spec: ``dataset`` (resource name), ``base`` (name or empty), ``settings`` (what was set).

    Raises:
        InvalidArgument: Naming the field that is wrong.
        NotFound: If there is no such dataset.
        FailedPrecondition: If the dataset cannot train an adapter of this base.
    """
    wanted = AdapterSettings.from_spec(spec.get("settings") or {})
    dataset_id = dataset_id_of(store, tenant, spec["dataset"], "dataset")
    base = resolve_base(spec.get("base") or settings.default_base, settings.models_dir)
    dataset = store.get_manifest(tenant, DATASETS, dataset_id)
    _check_base_is_blind(base, dataset)
    num_images = sum(map(len, digests_of_split(dataset, "train").values()))
    return {
        "dataset": spec["dataset"],
        "base": base.name,
        "base_revision": base.revision,
        "settings": wanted.for_images(num_images).to_dict(),
    }


def run(spec: AdapterSpec, ctx: JobContext) -> str:
    """Trains and stores the adapter; ``spec`` as ``validate`` gave it.

    Returns:
        The adapter's id.
    """
    from services.trainer.adapters.membership_inference import audit_adapter, audit_counts
    from services.trainer.adapters.training import SHARED, train_adapter

    settings = AdapterSettings.from_spec(spec["settings"])
    dataset_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    base = resolve_base(spec["base"], ctx.settings.models_dir)
    if base.revision != spec["base_revision"]:
        raise FailedPrecondition(base.name, "the base has changed since the request", "ask again")
    dataset = ctx.store.get_manifest(ctx.tenant, DATASETS, dataset_id)
    _check_base_is_blind(base, dataset)
    size = base.image_size_px or 512
    data = load_images(ctx.store, ctx.tenant, dataset_id, "train", size, ctx.settings)
    fitted = train_adapter(
        data.images,
        data.class_ids,
        base,
        settings,
        ctx.progress,
        ctx.checkpoints,
        device=ctx.settings.torch_device(),
    )
    # Held-out images are read here for the first time, when the adapter can no longer change. Only
    # a few figures in the manifest come from this audit, and nothing is chosen by them.
    most = audit_counts(digests_of_split(dataset, "train"), digests_of_split(dataset, "test"))
    membership = audit_adapter(
        base,
        fitted.files,
        load_images(ctx.store, ctx.tenant, dataset_id, "train", size, ctx.settings, most),
        load_images(ctx.store, ctx.tenant, dataset_id, "test", size, ctx.settings, most),
        ctx.progress,
        settings.seed,
        ctx.settings.torch_device(),
    )
    metrics = dict(fitted.metrics)
    if membership["auc"] is not None:
        metrics["membership_auc"] = membership["auc"]
    draft = ctx.store.new_draft(ctx.tenant, ADAPTERS, ctx.artifact_id)
    draft.discard()  # what a runner that was lost in this place may have left
    for path, content in fitted.files.items():
        draft.write(path, content)
    draft.write(NEAR_DUPLICATE_HASHES, NearDuplicateHashes.of(data.images).to_json())
    class_ids = usable_classes(dataset)
    draft.commit(
        {
            "parents": [spec["dataset"]],
            "base": base.name,
            "base_revision": base.revision,
            "settings": settings.to_dict(),
            "seed": settings.seed,
            "code_version": code_version(),
            "metrics": metrics,
            "digests": sorted(data.digests),
            "phashes": training_phashes(dataset),
            "body": {
                "dataset": spec["dataset"],
                "layout": "per_class" if settings.per_class else SHARED,
                "class_ids": class_ids,
                "lora": settings.lora.to_dict(),
                "center_crop": dataset["body"]["center_crop"],
                "privacy": {"membership_inference": membership},
            },
        }
    )
    return ctx.artifact_id


def _check_base_is_blind(base: Base, dataset: Mapping[str, Any]) -> None:
    remedy = "use a base that has not seen them, for example cyto-small-phantoms"
    check_blind(f"base {base.name}", base.manifest, dataset, remedy)
