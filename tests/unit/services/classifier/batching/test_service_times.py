"""Times of batches, and the sizes that follow from them."""

from __future__ import annotations

import pytest

from services.classifier.batching.service_times import ServiceTimes

# 4 ms for a batch and 1 ms for each of its images: larger batches pay, less and less.
GROWING = ServiceTimes({size: 0.004 + 0.001 * size for size in (1, 2, 4, 8, 16, 32)})


def test_a_batch_is_as_large_as_pays() -> None:
    assert GROWING.best_size == 32
    assert ServiceTimes({1: 0.01, 2: 0.02, 4: 0.04}).best_size == 1
    assert ServiceTimes({1: 0.01, 2: 0.011, 4: 0.022}).best_size == 2


@pytest.mark.parametrize(
    ("at_hand", "batch"),
    [(1, (1, 1)), (3, (3, 4)), (7, (7, 8)), (9, (8, 8)), (15, (15, 16)), (40, (32, 32))],
)
def test_images_are_padded_or_left_for_the_next_batch(at_hand: int, batch: tuple[int, int]) -> None:
    assert GROWING.batch(at_hand) == batch


def test_an_estimate_adds_batches_up() -> None:
    assert GROWING.estimate(0) == 0
    assert GROWING.estimate(64) == pytest.approx(2 * 0.036)
    assert GROWING.estimate(65) == pytest.approx(2 * 0.036 + 0.005)


def test_measured_times_move_the_estimate_and_one_outlier_hardly() -> None:
    times = ServiceTimes({1: 0.01, 2: 0.015})
    for _ in range(100):
        times.record(1, 0.02)
    assert times.seconds(1) == pytest.approx(0.02, rel=0.01)
    times.record(1, 60.0)
    assert times.seconds(1) < 0.03


def test_a_bad_moment_of_one_size_does_not_rule_it_out() -> None:
    times = ServiceTimes({1: 0.01, 8: 0.02})
    for _ in range(100):
        times.record(8, 5.0)
    for _ in range(100):
        times.record(1, 0.01)
    assert times.best_size == 8 and times.seconds(8) == pytest.approx(0.02, rel=0.05)


def test_times_must_be_measured() -> None:
    with pytest.raises(ValueError, match="must be measured"):
        ServiceTimes({})
