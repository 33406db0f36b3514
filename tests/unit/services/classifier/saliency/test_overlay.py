"""A map over its image."""

from __future__ import annotations

import numpy as np

from services.classifier.saliency.overlay import overlay_png
from services.common.images.codec import decode_image
from tests.support.few_shot import cell_image


def test_only_what_is_salient_changes() -> None:
    image = cell_image("monocyte", 1, 256)
    heat = np.zeros((256, 256), np.float32)
    heat[:128] = 1
    drawn = decode_image(overlay_png(image, heat), "overlay")
    np.testing.assert_array_equal(drawn[130:], image[130:])
    assert np.abs(drawn[:126].astype(int) - image[:126]).max() > 50


def test_small_images_are_enlarged() -> None:
    image = cell_image("monocyte", 1, 40)
    drawn = decode_image(overlay_png(image, np.zeros((40, 40), np.float32)), "overlay")
    assert drawn.shape == (224, 224, 3)
