"""Phantoms as training images: what the base knew before, without adapter or diffusion model."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cytosynth.phantoms import render_phantom, sample_laboratory
from services.trainer.study_recipe import phantom_classes
from services.trainer.train_classifier import LabelledImages

_RENDERED_PX = 64


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
