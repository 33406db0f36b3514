"""Images whose last step is taken, until their pixels have arrived."""

from __future__ import annotations

import numpy as np

from services.generator.engine.denoiser import DecodedImages, Denoiser
from services.generator.engine.streams import ImageStream, InFlightImage


class DecodeQueue:
    """Decodes in batches, whole ones where no reader waits for less."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._waiting: list[InFlightImage] = []
        self._decoding: tuple[list[InFlightImage], DecodedImages] | None = None
        self._num_rounds_waited = 0

    @property
    def streams(self) -> set[ImageStream]:
        """Streams of the images that are not being decoded yet."""
        return {image.stream for image in self._waiting}

    def add(self, image: InFlightImage) -> None:
        """Queue an image whose steps are all taken."""
        self._waiting.append(image)

    def remove(self, stream: ImageStream) -> list[InFlightImage]:
        """Take out a stream's images that are not being decoded yet."""
        removed = [image for image in self._waiting if image.stream is stream]
        self._waiting = [image for image in self._waiting if image.stream is not stream]
        return removed

    def start(self, idle: bool) -> list[InFlightImage]:
        """Begin decoding, a few at a time unless somebody waits for it.

        Args:
            idle: Nothing else is to be done.

        Returns:
            The images whose solver states are free from now on.
        """
        if not self._waiting:
            return []
        urgent = [image for image in self._waiting if image.stream.interactive]
        self._num_rounds_waited += 1
        # One decoder at a time; images for the other one come next.
        tiny = (urgent or self._waiting)[0].stream.program.tiny_decoder
        ready = [image for image in self._waiting if image.stream.program.tiny_decoder is tiny]
        size = self._denoiser.decode_batch_size
        if not idle and not urgent and self._num_rounds_waited < size:
            ready = ready[: len(ready) // size * size]
        if not ready:
            return []
        self._num_rounds_waited = 0
        self._waiting = [image for image in self._waiting if image not in ready]
        self._decoding = ready, self._denoiser.decode([image.state for image in ready], tiny)
        return ready

    def has_arrived(self) -> bool:
        """Whether ``collect`` would not wait."""
        return self._decoding is not None and self._decoding[1].ready()

    def collect(self) -> list[tuple[InFlightImage, np.ndarray | None]]:
        """Wait for what is being decoded.

        Returns:
            Each image with its pixels, uint8 (H, W, 3); None where they are not finite.
        """
        if self._decoding is None:
            return []
        (images, decoded), self._decoding = self._decoding, None
        return list(zip(images, decoded.wait(), strict=True))
