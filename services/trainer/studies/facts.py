"""Facts that repeat a replicate: names, digests and seeds."""

from __future__ import annotations

from services.common import resource_names
from services.common.resource_names import ADAPTERS, DATASETS, IMAGE_SETS
from services.trainer.classifiers.image_sets import count_withheld
from services.trainer.datasets.reading import digests_of_split, image_home
from services.trainer.studies.recipe import SYNTHETIC_ARMS
from services.trainer.studies.replicate import Replicate
from services.trainer.studies.results import ReplicateFacts, SynthesisFacts
from services.trainer.studies.synthetic_images import image_plan, withheld_images


def replicate_facts(replicate: Replicate) -> ReplicateFacts:
    """Facts of a replicate whose parts are all finished."""
    dataset, class_ids = replicate.dataset, replicate.class_ids
    body = dataset["body"]
    num_train, num_test = (
        {c: len(digests[c]) for c in class_ids}
        for digests in (digests_of_split(dataset, "train"), digests_of_split(dataset, "test"))
    )
    return {
        **_synthesis_facts(replicate),
        "dataset": dataset["name"],
        "images_of": resource_names.build(DATASETS, image_home(dataset)),
        "seed": dataset["seed"],
        "split_digest": body["split_digest"],
        "center_crop": body["center_crop"],
        "notices": body["notices"],
        "left_out": replicate.left_out,
        "num_train": num_train,
        "num_test": num_test,
        "train_digests": dataset["digests"],
    }


def _synthesis_facts(replicate: Replicate) -> SynthesisFacts:
    """Facts of its adapter and synthetic images; empty without."""
    ctx, study = replicate.ctx, replicate.study
    if not set(study.arms) & set(SYNTHETIC_ARMS):
        return {}
    adapter = ctx.store.get_manifest(ctx.tenant, ADAPTERS, ctx.artifact_id)
    plan = image_plan(replicate)
    return {
        "adapter": adapter["name"],
        "adapter_files": adapter["files"],
        "base": adapter["base"],
        "base_revision": adapter["base_revision"],
        "image_set": resource_names.build(IMAGE_SETS, plan.image_set_id),
        "num_synthetic": study.num_per_class[-1] * len(replicate.class_ids),
        "num_redrawn": count_withheld(plan, ctx.store, ctx.tenant),
        "num_withheld": sum(map(len, withheld_images(replicate).values())),
        "membership_inference": adapter["body"]["privacy"]["membership_inference"],
    }
