"""Measures of a replicate's synthetic images: quality, and nearness to training images."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from services.common.images.codec import center_square, decode_image
from services.common.images.near_duplicates import orientations
from services.trainer.classifiers.image_sets import read_image_set
from services.trainer.compute.training_run import ProgressFn
from services.trainer.datasets.reading import SplitImages
from services.trainer.evaluation.feature_space import FeatureSource, resolve_feature_space
from services.trainer.evaluation.image_quality import quality_by_class
from services.trainer.evaluation.memorization import compare
from services.trainer.evaluation.nearest import ImageFeatures
from services.trainer.evaluation.triplets import triplet_pictures
from services.trainer.studies.replicate import Replicate
from services.trainer.studies.results import Measures
from services.trainer.studies.synthetic_images import image_plan, withheld_images

_INCEPTION_PX = 299
_USUAL_CLIP_PX = 224


def measure_replicate(replicate: Replicate, progress: ProgressFn) -> None:
    """Measures the synthetic images of a replicate, unless that was done before."""
    path = _path(replicate.number)
    if not replicate.work.exists(path):
        found = _measure(replicate, progress)
        replicate.work.write(path, json.dumps(found).encode())


def read_measures(replicate: Replicate) -> Measures:
    """Measures of a replicate.

    Raises:
        NotFound: If they are not there.
    """
    found: Measures = json.loads(replicate.work.read(_path(replicate.number)))
    return found


def _path(number: int) -> str:
    return f"measures/replicate-{number:02d}.json"


def _measure(replicate: Replicate, progress: ProgressFn) -> Measures:
    ctx, study, withheld = replicate.ctx, replicate.study, withheld_images(replicate)
    image_set_id = image_plan(replicate).image_set_id
    files = read_image_set(ctx.store, ctx.tenant, image_set_id, study.num_per_class[-1])
    used = [
        (class_id, number, decode_image(data, f"synthetic image {number}"))
        for class_id, members in files.items()
        for number, data in enumerate(members)
        if number not in withheld[class_id]
    ]
    source = resolve_feature_space(study.feature_space, ctx.settings.models_dir)
    px = measured_px(source, min(min(image.shape[:2]) for *_, image in used))
    found = measure_images(
        source,
        replicate.images("train", px),
        replicate.kept_images("test", px),
        (
            np.stack([center_square(image, 1.0, px) for *_, image in used]),
            [class_id for class_id, *_ in used],
        ),
        replicate.class_ids,
        replicate.seed,
        ctx.settings.torch_device(),
        lambda done, total: progress("measuring", done, total, {}),
    )
    rows = zip(used, found["nearest_of_each"], strict=True)
    return {**found, "nearest_of_each": [[*image[:2], *row] for image, row in rows]}


def measured_px(source: FeatureSource, synthetic_px: int) -> int:
    """Size in pixels at which images are measured: the smallest involved.

    Real and synthetic images come in the same size, or what resizing takes from one kind alone
    would count as a difference between them.
    """
    own = source.clip_base.image_size_px if source.clip_base else _INCEPTION_PX
    return min(own or _USUAL_CLIP_PX, synthetic_px)


def measure_images(
    source: FeatureSource,
    train: SplitImages,
    test: SplitImages,
    synthetic: tuple[np.ndarray, list[str]],
    class_ids: list[str],
    seed: int,
    device: str,
    progress: Callable[[int, int], None],
) -> Measures:
    """Quality and nearness of the synthetic images that classifiers learned from.

    Args:
        source: Feature space in which distances are measured.
        train: Images that the adapter was fitted to.
        test: Locked real images.
        synthetic: Images, uint8 (M, S, S, 3), of the same size as the real ones, and their M
            class ids.
        class_ids: Classes that are compared.
        seed: Seed of subsets and random triplets.
        device: torch device.
        progress: Called with images done and all; may raise to stop.

    Returns:
        JSON; rows of ``nearest_of_each`` begin with the digest.
    """
    space = source.load(device)
    images, synthetic_ids = synthetic
    oriented = np.concatenate([np.stack(orientations(image)) for image in train.images])
    num_images = len(oriented) + len(test.images) + len(images)

    def features(group: np.ndarray, num_before: int) -> np.ndarray:
        return space.features(group, lambda done, _: progress(num_before + done, num_images))

    known = features(oriented, 0).reshape(len(train.images), 8, -1)
    held_out = features(test.images, len(oriented))
    ours = features(images, len(oriented) + len(test.images))
    number = {class_id: i for i, class_id in enumerate(class_ids)}
    tested, generated = (
        np.array([number[each] for each in ids]) for ids in (test.class_ids, synthetic_ids)
    )
    found = compare(
        ImageFeatures(images, ours, synthetic_ids),
        ImageFeatures(train.images, known, train.class_ids),
        ImageFeatures(test.images, held_out, test.class_ids),
        seed=seed,
    )
    return {
        "feature_space": space.to_dict(),
        "quality": quality_by_class((held_out, tested), (ours, generated), class_ids, seed),
        "gallery": triplet_pictures(found.triplets, images, train.images, test.images),
        "nearest": found.figures,
        "nearest_of_each": [
            [
                train.digests[each.by_features],
                each.distance,
                train.digests[each.by_hash],
                each.bits,
                each.flagged,
            ]
            for each in found.each
        ],
    }
