"""Calls with images in the queue, and the turns that they take."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.classifier.batching.service_times import ServiceTimes

RgbImage = NDArray[np.uint8]


@dataclass(frozen=True)
class Scores:
    """What a network says of one image.

    Attributes:
        logits: Logit of each class (C,).
        features: Input of the last layer (D,); for CLIP the embedding of the image.
    """

    logits: NDArray[np.float64]
    features: NDArray[np.float32]


class Network(Protocol):
    """A classifier as the batches see it."""

    @property
    def lane(self) -> tuple[str, str]:
        """Tenant and version: images of one lane are computed together."""

    @property
    def times(self) -> ServiceTimes:
        """Measured times of its batches."""

    def scores(self, images: Sequence[RgbImage], size: int) -> list[Scores]:
        """Scores of at most ``size`` images, computed as a batch of ``size``."""


@dataclass(eq=False)
class Work:
    """One image.

    Attributes:
        flow: Call that the image belongs to.
        prepare: Decodes the image; runs in a thread.
        future: Receives the scores or the failure, in its event loop.
        image: What ``prepare`` gave.
        submitted: When the image came, monotonic seconds.
        ready: When the image was decoded, monotonic seconds.
    """

    flow: Flow
    prepare: Callable[[], RgbImage]
    future: asyncio.Future[Scores]
    image: RgbImage | None = None
    submitted: float = 0.0
    ready: float = 0.0


@dataclass(eq=False)
class Flow:
    """One call, which takes turns with the others.

    Attributes:
        tenant: Caller.
        network: Classifier that is asked.
        deadline: Monotonic seconds after which nobody waits, or None.
        encoded: Images to decode.
        decoded: Images to compute.
        num_decoding: Images that a thread decodes.
        cancelled: Whether the caller went away.
    """

    tenant: str
    network: Network
    deadline: float | None = None
    encoded: deque[Work] = field(default_factory=deque)
    decoded: deque[Work] = field(default_factory=deque)
    num_decoding: int = 0
    cancelled: bool = False

    @property
    def num_waiting(self) -> int:
        """Images that are in no batch yet."""
        return len(self.encoded) + self.num_decoding + len(self.decoded)

    def is_over(self, now: float) -> bool:
        """Whether nobody waits for the answers any more."""
        return self.cancelled or (self.deadline is not None and now >= self.deadline)


class Turns:
    """Round robin among flows; each gives one image in turn."""

    def __init__(self, images: Callable[[Flow], deque[Work]]) -> None:
        """Starts without flows.

        Args:
            images: Images of a flow that may be taken.
        """
        self._images = images
        self._flows: dict[Flow, None] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._flows)

    def join(self, flow: Flow) -> None:
        """Lets a flow take part, behind all others unless it already does."""
        self._flows.setdefault(flow)

    def leave(self, flow: Flow) -> None:
        """Removes a flow."""
        self._flows.pop(flow, None)

    def take(self) -> Work:
        """Takes one image of the next flow; there must be one."""
        flow = next(iter(self._flows))
        del self._flows[flow]
        images = self._images(flow)
        work = images.popleft()
        if images:
            self._flows[flow] = None
        return work
