"""Images that arms add to the real ones: synthetic images or phantoms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cytosynth.phantoms import render_phantom, sample_laboratory
from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.studies.recipe import phantom_classes

_RENDERED_PX = 64


@dataclass(frozen=True)
class Ready:
    """Images that are all there from the beginning."""

    images: LabelledImages

    def wait_for(self, share: float) -> LabelledImages:
        """All images, whatever the share."""
        return self.images


def joined(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    """Two sets of images, one after the other."""
    images = np.concatenate([one.images, other.images])
    return LabelledImages(images, np.concatenate([one.labels, other.labels]))


def first_of_each(
    whole: LabelledImages, withheld: Mapping[str, list[int]], counts: Mapping[str, int]
) -> Ready:
    """The first images of each class, those withheld left out.

    Args:
        whole: Classes in the order of their labels.
        withheld: Numbers of images within their class, by class in the same order.
        counts: Most images of each class.
    """
    kept: list[int] = []
    for label, (class_id, out) in enumerate(withheld.items()):
        members = np.flatnonzero(whole.labels == label)
        kept += np.delete(members, out)[: counts[class_id]].tolist()
    order = sorted(kept)
    return Ready(LabelledImages(whole.images[order], whole.labels[order]))


def phantom_images(
    class_ids: list[str], num_per_class: int, seed: int, image_size: int
) -> LabelledImages:
    """``num_per_class`` phantoms of every class, each from a laboratory of its own.

    Classes must be such that ``phantom_classes`` has a phantom for each.
    """
    images, labels = [], []
    for label, name in enumerate(phantom_classes(class_ids)):
        for number in range(num_per_class):
            rng = np.random.default_rng([seed, label, number])
            cell_seed = int(rng.integers(2**31))
            phantom = render_phantom(name, sample_laboratory(rng), cell_seed, _RENDERED_PX)
            square = Image.fromarray(phantom.image).resize((image_size, image_size))
            images.append(np.asarray(square))
            labels.append(label)
    return LabelledImages(np.stack(images), np.array(labels, dtype=np.int64))
