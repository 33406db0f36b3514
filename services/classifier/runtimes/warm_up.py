"""First batches of a network, which also tell how long batches take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from services.classifier.batching.service_times import BATCH_SIZES, ServiceTimes
from services.classifier.runtimes.runtime import Runtime

_NUM_TIMED = 3
_PAYS = 0.97
"""A larger batch pays if it lowers the time per image to this share."""


def warm_up(
    runtime: Runtime,
    image_size: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> ServiceTimes:
    """Computes batches of growing size until a larger one no longer pays.

    The first batch of a size is slow, as memory is laid out and kernels are chosen for it. Callers
    must not wait for that.

    Args:
        runtime: What to warm up.
        image_size: Size of its input, pixels.
        clock: Seconds.
        cpu_clock: Seconds of computing of this process, which other processes do not add to.
    """
    rng = np.random.default_rng(0)
    seconds: dict[int, float] = {}
    least, num_idle = np.inf, 0
    for size in BATCH_SIZES:
        images = rng.integers(0, 256, (size, image_size, image_size, 3), np.uint8)
        runtime.run(images)
        taken = [(clock(), cpu_clock())]
        for _ in range(_NUM_TIMED):
            runtime.run(images)
            taken.append((clock(), cpu_clock()))
        # The shorter of both: one grows with other processes, the other with threads.
        seconds[size] = min(
            min(end - start for start, end in zip(before, after, strict=True))
            for before, after in itertools.pairwise(taken)
        )
        per_image = seconds[size] / size
        num_idle = 0 if per_image < _PAYS * least else num_idle + 1
        least = min(least, per_image)
        if num_idle == 2:
            break
    return ServiceTimes(seconds)
