"""Measured seconds of a batch by its size, and estimates."""

from __future__ import annotations

from collections.abc import Mapping

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Sizes that are computed; a batch in between is padded, or computed in part."""

_SMOOTHING = 0.1
_NEAR_BEST = 1.1
"""A batch is as large as lowers the time per image to this many times the least."""


class ServiceTimes:
    """Seconds per batch size of one model; not thread-safe.

    How sizes compare is known from the warm-up. What is measured later moves one factor for all of
    them: were each size on its own, one that was slow in a bad moment would never be tried again.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Starts from the times of a warm-up.

        Args:
            seconds: Seconds of a batch, by size. Sizes that are absent are never computed.
        """
        if not seconds:
            raise ValueError("at least one batch size must be measured")
        self._warm_seconds = dict(sorted(seconds.items()))
        self._slowdown = 1.0

    def record(self, size: int, seconds: float) -> None:
        """Takes the measured time of a batch into account."""
        slowdown = seconds / self._warm_seconds[size]
        # One batch that the machine held up must not look like the new normal.
        bounded = min(slowdown, 4 * self._slowdown)
        self._slowdown += _SMOOTHING * (bounded - self._slowdown)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of batches, ascending."""
        return tuple(self._warm_seconds)

    @property
    def best_size(self) -> int:
        """The smallest size whose time per image is close to the least."""
        per_image = {size: seconds / size for size, seconds in self._warm_seconds.items()}
        least = min(per_image.values())
        return next(size for size, each in per_image.items() if each <= _NEAR_BEST * least)

    @property
    def seconds_per_image(self) -> float:
        """Seconds of an image in a batch of the best size."""
        best = self.best_size
        return self.seconds(best) / best

    def batch(self, num_images: int) -> tuple[int, int]:
        """Number of images of the next batch, and its padded size.

        Args:
            num_images: Images at hand, at least 1.

        Returns:
            All images padded to the next size, or fewer images in a full batch, whichever takes
            less time per image.
        """
        best = self.best_size
        if num_images >= best:
            return best, best
        padded = next(size for size in self._warm_seconds if size >= num_images)
        full = max((size for size in self._warm_seconds if size <= num_images), default=padded)
        if self._warm_seconds[padded] / num_images <= self._warm_seconds[full] / full:
            return num_images, padded
        return full, full

    def seconds(self, size: int) -> float:
        """Seconds of a batch of one of ``sizes``."""
        return self._warm_seconds[size] * self._slowdown

    def estimate(self, num_images: int) -> float:
        """Seconds until ``num_images`` are computed one batch after the other."""
        best = self.best_size
        whole, rest = divmod(num_images, best)
        seconds = whole * self._warm_seconds[best]
        if rest:
            padded = next(size for size in self._warm_seconds if size >= rest)
            seconds += min(self._warm_seconds[padded], self._warm_seconds[best])
        return seconds * self._slowdown
