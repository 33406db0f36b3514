"""First batches of a network, which also tell how long batches take."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from services.classifier.batching.service_times import BATCH_SIZES, ServiceTimes
from services.classifier.runtimes.runtime import Runtime

_PAYS = 0.97
"""A larger batch pays if it lowers the time per image to this share."""


def warm_up(
    runtime: Runtime, image_size: int, clock: Callable[[], float] = time.perf_counter
) -> ServiceTimes:
    """Computes batches of growing size until a larger one no longer pays.

    The first batch of a size is slow, as memory is laid out and kernels are chosen for it. Callers
    must not wait for that.

    Args:
        runtime: What to warm up.
        image_size: Size of its input, pixels.
        clock: Seconds.
    """
    rng = np.random.default_rng(0)
    seconds: dict[int, float] = {}
    least, num_idle = np.inf, 0
    for size in BATCH_SIZES:
        images = rng.integers(0, 256, (size, image_size, image_size, 3), np.uint8)
        runtime.run(images)
        seconds[size] = min(_timed(runtime, images, clock) for _ in range(2))
        per_image = seconds[size] / size
        num_idle = 0 if per_image < _PAYS * least else num_idle + 1
        least = min(least, per_image)
        if num_idle == 2:
            break
    return ServiceTimes(seconds)


def _timed(runtime: Runtime, images: np.ndarray, clock: Callable[[], float]) -> float:
    started = clock()
    runtime.run(images)
    return clock() - started
