"""Measured seconds of a batch by its size, and estimates."""

from __future__ import annotations

from collections.abc import Mapping

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Sizes that are computed; a batch in between is padded, or computed in part."""

_SMOOTHING = 0.1
_NEAR_BEST = 1.1
"""A batch is as large as lowers the time per image to this many times the least."""


class ServiceTimes:
    """Exponentially weighted seconds per batch size of one model; not thread-safe."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Starts from the times of a warm-up.

        Args:
            seconds: Seconds of a batch, by size. Sizes that are absent are never computed.
        """
        if not seconds:
            raise ValueError("at least one batch size must be measured")
        self._seconds = dict(sorted(seconds.items()))

    def record(self, size: int, seconds: float) -> None:
        """Takes the measured time of a batch into account."""
        before = self._seconds.get(size, seconds)
        # One batch that the machine held up must not look like the new normal.
        bounded = min(seconds, 4 * before)
        self._seconds[size] = before + _SMOOTHING * (bounded - before)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of batches, ascending."""
        return tuple(self._seconds)

    @property
    def best_size(self) -> int:
        """The smallest size whose time per image is close to the least."""
        per_image = {size: seconds / size for size, seconds in self._seconds.items()}
        least = min(per_image.values())
        return next(size for size, each in per_image.items() if each <= _NEAR_BEST * least)

    @property
    def seconds_per_image(self) -> float:
        """Seconds of an image in a batch of the best size."""
        best = self.best_size
        return self._seconds[best] / best

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
        padded = next(size for size in self._seconds if size >= num_images)
        full = max((size for size in self._seconds if size <= num_images), default=padded)
        if self._seconds[padded] / num_images <= self._seconds[full] / full:
            return num_images, padded
        return full, full

    def seconds(self, size: int) -> float:
        """Seconds of a batch of one of ``sizes``."""
        return self._seconds[size]

    def estimate(self, num_images: int) -> float:
        """Seconds until ``num_images`` are computed one batch after the other."""
        whole, rest = divmod(num_images, self.best_size)
        seconds = whole * self._seconds[self.best_size]
        if rest:
            padded = next(size for size in self._seconds if size >= rest)
            seconds += min(self._seconds[padded], self._seconds[self.best_size])
        return seconds
