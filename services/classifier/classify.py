"""Classification: encoded images to class probabilities.

The answer to an image does not depend on the other images of its batch: batches are padded to one
of a few sizes. Between sizes the arithmetic may round differently, by less than 1e-5 in a
probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.classifier.models import LoadedModel
from services.common.errors import InvalidArgument
from services.common.images.codec import ImageLimits, center_square, decode_image

BATCH_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class Classification:
    """Probabilities of one image by class, the most probable first."""

    probabilities: tuple[tuple[str, float], ...]

    @property
    def class_id(self) -> str:
        """The most probable class."""
        return self.probabilities[0][0]


def check_count(num_images: int, limit: int) -> None:
    """Raises InvalidArgument for an empty or too large batch."""
    if not 1 <= num_images <= limit:
        raise InvalidArgument("images", f"has {num_images} images", f"send 1 to {limit}")


def prepare(data: bytes, field: str, model: LoadedModel, limits: ImageLimits) -> np.ndarray:
    """Decodes and crops one image: uint8 (image_size, image_size, 3).

    Raises:
        InvalidArgument: Naming ``field``, if the image is refused.
    """
    return center_square(
        decode_image(data, field, limits), model.center_crop, model.config.image_size
    )


def prepare_all(
    images: Sequence[bytes], fields: Sequence[str], model: LoadedModel, limits: ImageLimits
) -> list[np.ndarray]:
    """Decodes and crops all images of a call.

    Raises:
        InvalidArgument: Naming the fields whose images are refused, so that the caller can leave
            these images out and send the others.
    """
    arrays: list[np.ndarray] = []
    refused: list[InvalidArgument] = []
    for data, field in zip(images, fields, strict=True):
        try:
            arrays.append(prepare(data, field, model, limits))
        except InvalidArgument as error:
            refused.append(error)
    if refused:
        raise InvalidArgument.joined(refused, len(refused))
    return arrays


def chunks(num_images: int) -> list[slice]:
    """Slices of at most the largest batch size."""
    largest = BATCH_SIZES[-1]
    return [slice(start, start + largest) for start in range(0, num_images, largest)]


def classify(model: LoadedModel, images: Sequence[np.ndarray]) -> list[Classification]:
    """Classifies at most ``BATCH_SIZES[-1]`` prepared images."""
    from services.common.models.classifiers import probabilities  # imports torch

    size = next(size for size in BATCH_SIZES if size >= len(images))
    batch = np.zeros((size, *images[0].shape), np.uint8)
    batch[: len(images)] = images
    rows = probabilities(model.network, batch, model.device)[: len(images)]
    return [_ranked(row, model.config.class_ids) for row in rows]


def _ranked(row: np.ndarray, class_ids: Sequence[str]) -> Classification:
    order = np.argsort(-row, kind="stable")
    return Classification(tuple((class_ids[i], float(row[i])) for i in order))
