"""Synthetic images as they come from the generator, while a classifier trains.

The images are asked for in rounds of a few per class, so that every class has come before
training starts. Nothing is queued: the stream is read as fast as its images are decoded and no
faster, which gRPC's flow control passes on to the generator.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextvars import copy_context
from itertools import accumulate
from typing import Any

import numpy as np

from services.common.errors import DataLoss
from services.common.images.codec import center_square, decode_image
from services.common.resource_names import IMAGE_SETS, build
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers.image_sets import (
    KeptRounds,
    RoundImage,
    SyntheticPlan,
)
from services.trainer.classifiers.training_images import LabelledImages

_POLL_SECONDS = 0.25

#: ``synthesize(class_counts, seed)`` opens a stream of images in the order of ``class_counts``.
Synthesize = Callable[[dict[str, int], int], Iterator[Any]]


class SyntheticPool:
    """Fills itself in the background. Use as a context manager."""

    def __init__(
        self,
        plan: SyntheticPlan,
        image_size: int,
        store: ArtifactStore,
        tenant: str,
        synthesize: Synthesize,
        on_wait: Callable[[int, int], None],
    ) -> None:
        """Prepares the pool; entering it starts the pull.

        Args:
            plan: Which images.
            image_size: Size of the resized images, pixels.
            store, tenant: Where the ImageSet is kept.
            synthesize: Opens a stream.
            on_wait: ``on_wait(num_arrived, num_images)``, called four times a second while a
                caller waits; may raise to stop waiting.
        """
        self._plan, self._store, self._tenant = plan, store, tenant
        self._synthesize, self._on_wait = synthesize, on_wait
        self._image_size = image_size
        counts = [count * len(plan.class_ids) for _, count in plan.rounds()]
        self._ends = list(accumulate(counts))
        # On disk, since a paper-sized set is larger than memory.
        self._file = tempfile.TemporaryFile(prefix="cytosynth-synthetic-")  # noqa: SIM115
        shape = (plan.num_images, image_size, image_size, 3)
        self._images = np.memmap(self._file, dtype=np.uint8, mode="w+", shape=shape)
        self._labels = np.zeros(plan.num_images, np.int64)
        self._num_arrived = 0
        self._failure: BaseException | None = None
        self._stopping = False
        self._changed = threading.Condition()
        # The calls are made for the request that this thread works for.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._pull,), name="synthetic-images", daemon=True
        )

    def __enter__(self) -> SyntheticPool:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(timeout=30)
        if not self._thread.is_alive():
            del self._images
            self._file.close()

    def wait_for(self, share: float) -> LabelledImages:
        """Waits for the first rounds that make up ``share`` (0 to 1).

        Raises:
            Exception: What stopped the pull, or what ``on_wait`` raised.
        """
        needed = max(1, round(share * len(self._ends) + 0.499))
        end = self._ends[min(needed, len(self._ends)) - 1]
        with self._changed:
            while self._num_arrived < end:
                if self._failure is not None:
                    raise self._failure
                self._on_wait(self._num_arrived, self._plan.num_images)
                self._changed.wait(_POLL_SECONDS)
        return LabelledImages(self._images[:end], self._labels[:end])

    def image_set(self) -> str:
        """Name of the complete, committed ImageSet, waiting for it."""
        self.wait_for(1.0)
        while self._thread.is_alive():
            self._on_wait(self._num_arrived, self._plan.num_images)
            self._thread.join(_POLL_SECONDS)
        if self._failure is not None:
            raise self._failure
        return build(IMAGE_SETS, self._plan.image_set_id)

    def _pull(self) -> None:
        try:
            kept = KeptRounds(self._plan, self._store, self._tenant)
            for number, (seed, count) in enumerate(self._plan.rounds()):
                images = kept.read(number)
                if images is None:
                    received = self._receive(seed, count)
                    if received is None:
                        return
                    images = kept.write(number, *received)
                self._take(images)
            kept.commit()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _receive(self, seed: int, count: int) -> tuple[list[RoundImage], Mapping[str, Any]] | None:
        """Images of a round and the generator's manifest; None when closing."""
        stream = self._synthesize(dict.fromkeys(self._plan.class_ids, count), seed)
        images: list[RoundImage] = []
        manifest: Mapping[str, Any] = {}
        try:
            for image in stream:
                if self._stopping:
                    return None
                manifest = manifest or image.manifest
                images.append(
                    RoundImage(
                        image.index,
                        image.class_id,
                        image.image_seed,
                        image.data,
                        image.manifest_digest,
                    )
                )
        finally:
            if isinstance(stream, Generator):
                stream.close()
        wanted = count * len(self._plan.class_ids)
        if len(images) != wanted:
            problem = f"the generator sent {len(images)} images of a round of {wanted}"
            raise DataLoss(problem, "start the job again")
        return images, manifest

    def _take(self, images: Sequence[RoundImage]) -> None:
        position = {class_id: i for i, class_id in enumerate(self._plan.class_ids)}
        start = self._num_arrived
        for offset, image in enumerate(images):
            array = decode_image(image.data, f"synthetic image {image.index}")
            self._images[start + offset] = center_square(array, 1.0, self._image_size)
            self._labels[start + offset] = position[image.class_id]
        with self._changed:
            self._num_arrived += len(images)
            self._changed.notify_all()
