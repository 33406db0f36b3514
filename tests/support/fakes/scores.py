"""A network that is no network, and images that are numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from services.classifier.batching.flows import Flow, RgbImage, Scores, Work
from services.classifier.batching.service_times import ServiceTimes


class FakeNetwork:
    """Answers an image with its first pixel; remembers its batches."""

    def __init__(self, tenant: str = "lab", id: str = "model-1", seconds: float = 0.01) -> None:
        self.lane = (tenant, id)
        self.times = ServiceTimes(dict.fromkeys((1, 2, 4, 8), seconds))
        self.batches: list[list[int]] = []
        self.sizes: list[int] = []

    def scores(self, images: Sequence[RgbImage], size: int) -> list[Scores]:
        numbers = [int(image[0, 0, 0]) for image in images]
        self.batches.append(numbers)
        self.sizes.append(size)
        if 255 in numbers:
            raise MemoryError("no memory for this batch")
        return [Scores(np.array([float(number)]), np.zeros(1, np.float32)) for number in numbers]


def image(number: int) -> RgbImage:
    """An image of one pixel that shows a number."""
    return np.full((1, 1, 3), number, np.uint8)


def work(flow: Flow, number: int) -> Work:
    """An image of a call; its future belongs to no running loop."""
    loop = asyncio.new_event_loop()
    future: asyncio.Future[Scores] = loop.create_future()
    loop.close()
    return Work(flow, lambda: image(number), future)
