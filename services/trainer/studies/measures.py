"""What is measured of a draw's synthetic images: quality, and how near they come to copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from services.common.images.near_duplicates import orientations
from services.trainer.datasets.reading import SplitImages
from services.trainer.evaluation.feature_space import FeatureSource
from services.trainer.evaluation.image_quality import quality_by_class
from services.trainer.evaluation.memorization import Cells, compare, triplet_pictures

_INCEPTION_PX = 299
_USUAL_CLIP_PX = 224


def measured_px(source: FeatureSource, synthetic_px: int) -> int:
    """Side at which images are measured, pixels: the space's own, or that of smaller images.

    Real and synthetic images come with the same side, or what resizing takes from one kind alone
    would count as a difference between them.
    """
    own = source.clip_base.image_size_px if source.clip_base else _INCEPTION_PX
    return min(own or _USUAL_CLIP_PX, synthetic_px)


def measure_draw(
    source: FeatureSource,
    train: SplitImages,
    test: SplitImages,
    synthetic: tuple[np.ndarray, list[str]],
    class_ids: list[str],
    seed: int,
    device: str,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Quality and nearness of the synthetic images that classifiers learned from.

    Args:
        source: Feature space in which distances are measured.
        train: What the adapter was fitted to.
        test: Locked real images.
        synthetic: Images, uint8 (M, S, S, 3), of the same side as the real ones, and their M
            class ids.
        class_ids: Classes that are compared.
        seed: Of what is drawn.
        device: torch device.
        progress: Called with images done and all; may raise to stop.

    Returns:
        What JSON can hold: ``feature_space``, ``quality`` (``quality_by_class``), ``nearest``
        (``nearest_training.compare``), ``gallery`` (its triplets with pictures) and
        ``nearest_of_each`` (its ``each``, with digests instead of numbers).
    """
    space = source.load(device)
    images, synthetic_ids = synthetic
    turned = np.concatenate([np.stack(orientations(image)) for image in train.images])
    num_images = len(turned) + len(test.images) + len(images)

    def features(group: np.ndarray, num_before: int) -> np.ndarray:
        return space.features(group, lambda done, _: progress(num_before + done, num_images))

    known = features(turned, 0).reshape(len(train.images), 8, -1)
    held_out = features(test.images, len(turned))
    ours = features(images, len(turned) + len(test.images))
    number = {class_id: i for i, class_id in enumerate(class_ids)}
    tested, drawn = (
        np.array([number[each] for each in ids]) for ids in (test.class_ids, synthetic_ids)
    )
    nearest = compare(
        Cells(images, ours, synthetic_ids),
        Cells(train.images, known, train.class_ids),
        Cells(test.images, held_out, test.class_ids),
        seed=seed,
    )
    nearest_of_each = nearest.pop("each")
    return {
        "feature_space": space.to_dict(),
        "quality": quality_by_class((held_out, tested), (ours, drawn), class_ids, seed),
        "gallery": triplet_pictures(nearest.pop("triplets"), images, train.images, test.images),
        "nearest": nearest,
        "nearest_of_each": [
            [train.digests[by_features], distance, train.digests[by_bits], bits, flagged]
            for by_features, distance, by_bits, bits, flagged in nearest_of_each
        ],
    }
