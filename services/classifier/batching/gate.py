"""Tells a burst from overload, like CoDel (Nichols and Jacobson 2012).

A burst, or a machine that stood still for a moment, makes a long queue that soon drains. Under
overload the queue stays long: then calls are refused as soon as their wait is above the target.
"""

from __future__ import annotations

BURST_SECONDS = 0.5
"""Time for which waits above the target count as a burst."""
_MOST = 4.0
"""A burst may wait this many times the target."""
_CALM = 0.5
"""Overload is over when a call would wait less than this share of the target."""


class Gate:
    """State of one tenant's queue."""

    def __init__(self, now: float) -> None:
        self._is_overloaded = False
        self._last_on_target = self._last_asked = now

    def refuses(self, wait: float, target: float, now: float) -> bool:
        """Whether a call with an estimated wait (seconds) must be refused."""
        if now - self._last_asked > BURST_SECONDS:  # nobody came, so nothing was above the target
            self._last_on_target, self._is_overloaded = now, False
        self._last_asked = now
        if wait <= target:
            self._last_on_target = now
        if wait < _CALM * target:
            self._is_overloaded = False
        elif now - self._last_on_target > BURST_SECONDS or wait > _MOST * target:
            self._is_overloaded = True
        return wait > target and self._is_overloaded

    def is_shut(self, now: float) -> bool:
        """Whether the state still matters."""
        return now - self._last_asked <= BURST_SECONDS
