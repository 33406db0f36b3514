"""Synthetic images of a replicate: adapter, ImageSet and near-duplicates."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from services.common import resource_names
from services.common.errors import FailedPrecondition
from services.common.images.codec import center_square, decode_image, sha256_hex
from services.common.images.near_duplicates import (
    HASH_PX,
    is_near_duplicate,
    training_hashes,
)
from services.common.resource_names import ADAPTERS
from services.trainer.adapters import job as fit_adapter
from services.trainer.classifiers.image_sets import SyntheticPlan, read_image_set
from services.trainer.classifiers.job import open_pool, synthetic_plan
from services.trainer.compute.training_run import ProgressFn
from services.trainer.datasets.reading import digests_of_split
from services.trainer.studies.replicate import Replicate


def generate_images(replicate: Replicate, part: str, progress: ProgressFn) -> None:
    """Fits the adapter, generates the ImageSet and inspects it, once.

    Args:
        replicate: Whose images.
        part: Name of this part of the study, for its checkpoints.
        progress: Called all along; may raise to stop.

    Raises:
        FailedPrecondition: If a synthetic image is one of the locked test images.
        DomainError: If the generator refuses or is lost.
    """
    if replicate.work.exists(_withheld_path(replicate)):
        return
    ctx = replicate.with_progress(progress)
    _fit_adapter(replicate, part, progress)
    with open_pool(image_plan(replicate), HASH_PX, ctx) as pool:
        pool.image_set()  # complete and committed
    withheld = json.dumps(_inspect(replicate))
    replicate.work.write(_withheld_path(replicate), withheld.encode())


def image_plan(replicate: Replicate) -> SyntheticPlan:
    """Plan of the synthetic images; every arm takes the first ones."""
    spec = {
        "adapter": resource_names.build(ADAPTERS, replicate.ctx.artifact_id),
        "num_per_class": replicate.study.num_per_class[-1],
        "seed": replicate.seed,
        "sampler": {"preset": replicate.study.sampler_preset},
    }
    ctx = replicate.ctx
    return synthetic_plan(spec, replicate.class_ids, ctx.store, ctx.tenant)


def withheld_images(replicate: Replicate) -> dict[str, list[int]]:
    """Numbers, within their class, of images that are near-duplicates of training images.

    Raises:
        NotFound: If ``generate_images`` has not been called.
    """
    found: dict[str, list[int]] = json.loads(replicate.work.read(_withheld_path(replicate)))
    return found


def _withheld_path(replicate: Replicate) -> str:
    return f"withheld/replicate-{replicate.number:02d}.json"


def _inspect(replicate: Replicate) -> dict[str, list[int]]:
    ctx, withheld = replicate.ctx, dict[str, list[int]]()
    locked = {each for ids in digests_of_split(replicate.dataset, "test").values() for each in ids}
    most = replicate.study.num_per_class[-1]
    images = read_image_set(ctx.store, ctx.tenant, image_plan(replicate).image_set_id, most)
    num_tested, known = 0, np.zeros(0, np.uint64)
    for class_id, files in images.items():
        withheld[class_id] = []
        for number, data in enumerate(files):
            num_tested += sha256_hex(data) in locked
            image = center_square(decode_image(data, f"synthetic image {number}"), 1.0, HASH_PX)
            if not len(known):
                known = training_hashes(replicate.images("train", HASH_PX).images)
            if is_near_duplicate(image, known):
                withheld[class_id].append(number)
    if num_tested:
        problem = f"{num_tested} of its locked test images are synthetic"
        raise FailedPrecondition(replicate.dataset["name"], problem, "upload real images only")
    return withheld


def _fit_adapter(replicate: Replicate, part: str, progress: ProgressFn) -> None:
    ctx, study = replicate.with_progress(progress), replicate.study
    if ctx.store.exists(ctx.tenant, ADAPTERS, ctx.artifact_id):
        return
    settings: dict[str, str | int] = {
        "preset": "paper" if study.preset == "paper" else "cpu",
        "seed": replicate.seed,
    }
    if study.adapter_steps:
        settings["num_steps"] = study.adapter_steps
    asked = {"dataset": replicate.dataset["name"], "base": study.base, "settings": settings}
    spec = fit_adapter.validate(asked, ctx.store, ctx.tenant, ctx.settings)
    checkpoints = replicate.checkpoints(part)
    fit_adapter.run(spec, dataclasses.replace(ctx, checkpoints=checkpoints))
    checkpoints.remove()
