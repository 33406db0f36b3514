"""What the arms of a study add to the real images."""

from __future__ import annotations

import numpy as np

from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.studies.arm_images import first_of_each


def test_the_first_of_each_class_that_are_not_withheld_are_taken() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    images = np.arange(8).reshape(8, 1, 1, 1)
    ready = first_of_each(LabelledImages(images, labels), {"a": [0, 2], "b": []}, {"a": 2, "b": 2})
    assert ready.wait_for(0.1).images.ravel().tolist() == [1, 2, 3, 6]
    assert ready.wait_for(1.0).labels.tolist() == [1, 0, 1, 0]
