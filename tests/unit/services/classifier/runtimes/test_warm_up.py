"""Warm-up: sizes that pay are measured, others are not computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from services.classifier.runtimes.warm_up import warm_up


class Clocked:
    """A network on its own clock, whose first batch is slow."""

    name = "clocked"

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.sizes: list[int] = []

    def run(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = len(images_BHWC)
        assert images_BHWC.shape == (size, 32, 32, 3) and images_BHWC.dtype == np.uint8
        self.now += self.seconds(size) + (0 if size in self.sizes else 5.0)
        self.sizes.append(size)
        return np.zeros((size, 4)), np.zeros((size, 2))


def test_the_first_batch_of_a_size_counts_for_nothing() -> None:
    runtime = Clocked(lambda size: 0.01 + 0.001 * size)
    times = warm_up(runtime, 32, clock=lambda: runtime.now, cpu_clock=lambda: runtime.now)
    assert times.sizes == (1, 2, 4, 8, 16, 32)
    assert abs(times.seconds(8) - 0.018) < 1e-9


def test_sizes_that_do_not_pay_are_left_out() -> None:
    runtime = Clocked(lambda size: 0.02 * size)
    assert warm_up(runtime, 32, clock=lambda: runtime.now, cpu_clock=lambda: runtime.now).sizes == (
        1,
        2,
        4,
    )
    assert max(runtime.sizes) == 4


def test_what_other_processes_take_is_not_counted() -> None:
    busy, cpu = Clocked(lambda size: 0.1 * size**2), Clocked(lambda size: 0.01 + 0.001 * size)

    class Both:
        name = "both"

        def run(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            busy.run(images_BHWC)
            return cpu.run(images_BHWC)

    times = warm_up(Both(), 32, clock=lambda: busy.now, cpu_clock=lambda: cpu.now)
    assert times.best_size == 32 and abs(times.seconds(8) - 0.018) < 1e-9
