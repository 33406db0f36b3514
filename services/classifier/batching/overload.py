"""When refused callers are to try again."""

from __future__ import annotations

import math

from services.common.errors import ResourceExhausted

_MEMORY_SECONDS = 1.0
_LEAST_DELAY, _LONGEST_DELAY = 0.1, 30.0


class Overload:
    """Recent numbers of admitted and refused calls; not thread-safe."""

    def __init__(self) -> None:
        self._admitted, self._refused, self._updated = 0.0, 0.0, 0.0

    def admitted(self, now: float) -> None:
        """Counts an admitted call."""
        self._decay(now)
        self._admitted += 1

    def refusal(self, excess_wait: float, now: float) -> ResourceExhausted:
        """Counts a refused call and makes its error.

        Args:
            excess_wait: Seconds by which the call would wait too long.
            now: Monotonic seconds.
        """
        self._decay(now)
        self._refused += 1
        # All who were refused come back: where nine of ten were, a tenth may come at a time.
        crowd = 1 + self._refused / max(self._admitted, 1.0)
        delay = min(max(_LEAST_DELAY, excess_wait) * crowd, _LONGEST_DELAY)
        return ResourceExhausted(
            "the classifier has more images waiting than it can answer in time",
            f"try again in {delay:.1f} s",
            round(delay, 3),
        )

    def _decay(self, now: float) -> None:
        kept = math.exp(-max(0.0, now - self._updated) / _MEMORY_SECONDS)
        self._admitted, self._refused = self._admitted * kept, self._refused * kept
        self._updated = now
