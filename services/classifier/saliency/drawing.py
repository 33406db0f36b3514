"""Draws saliency in a low-priority thread, which delays no batch."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from services.classifier.batching.flows import RgbImage
from services.classifier.loaded_model import LoadedModel
from services.common.errors import Cancelled, InvalidArgument, ResourceExhausted

MAX_IMAGES = 32
"""Images of one call, whose PNGs have to fit into one message."""
_MAX_WAIT_SECONDS = 30.0
_SMOOTHING = 0.2
_NICE = 10


class Drawing:
    """Draws one image at a time; for one event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saliency", initializer=_lower_priority)
        self._num_waiting = 0
        self._seconds = 0.1

    def check(self, num_images: int) -> None:
        """Refuses what would be too much, before any image is decoded.

        Raises:
            InvalidArgument: If a call asks for too many images.
            ResourceExhausted: If too many wait already.
        """
        if num_images > MAX_IMAGES:
            raise InvalidArgument(
                "options.saliency",
                f"is asked for {num_images} images",
                f"send at most {MAX_IMAGES} images a call",
            )
        wait = self._num_waiting * self._seconds
        if wait > _MAX_WAIT_SECONDS:
            problem = "too many images wait for their saliency"
            raise ResourceExhausted(problem, "try again later, or ask without", round(wait / 2, 1))

    async def draw(
        self,
        model: LoadedModel,
        images: Sequence[RgbImage],
        class_ids: Sequence[str],
        deadline: float | None,
    ) -> list[bytes]:
        """PNGs of images with what speaks for their classes.

        Args:
            model: Classifier that answered.
            images: Images as the network saw them.
            class_ids: Class of each that is explained.
            deadline: Monotonic seconds after which the caller no longer waits, or None.

        Raises:
            Cancelled: If the deadline passes.
        """
        drawn = []
        self._num_waiting += len(images)
        try:
            for image, class_id in zip(images, class_ids, strict=True):
                if deadline is not None and time.monotonic() >= deadline:
                    raise Cancelled("the deadline of the call passed while saliency was drawn")
                started = time.monotonic()
                drawn.append(
                    await asyncio.get_running_loop().run_in_executor(
                        self._thread, _draw, model, image, class_id
                    )
                )
                taken = time.monotonic() - started
                self._seconds += _SMOOTHING * (taken - self._seconds)
                self._num_waiting -= 1
        finally:
            self._num_waiting -= len(images) - len(drawn)
        return drawn


def _draw(model: LoadedModel, image: RgbImage, class_id: str) -> bytes:
    from services.classifier.saliency.maps import saliency_map  # imports torch
    from services.classifier.saliency.overlay import overlay_png

    index = model.config.class_ids.index(class_id)
    return overlay_png(image, saliency_map(model.network, image, index, model.device))


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere the id might be that of a process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
