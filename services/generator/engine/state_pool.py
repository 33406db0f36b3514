"""Free solver states of the denoiser, some kept for interactive work."""

from __future__ import annotations


class StatePool:
    """Hands out indices of solver states. Use from one thread."""

    def __init__(self, num_states: int) -> None:
        """Give at most half to bulk work and 7/8 to interactive work."""
        self._free = list(range(num_states - 1, -1, -1))
        self._most = {False: num_states // 2, True: num_states - max(1, num_states // 8)}
        self._num_taken = {False: 0, True: 0}

    def has_free(self, interactive: bool) -> bool:
        """Whether work of this kind may take another state."""
        return bool(self._free) and self._num_taken[interactive] < self._most[interactive]

    def take(self, interactive: bool) -> int:
        """Reserve a state, of which ``has_free`` says that there is one."""
        self._num_taken[interactive] += 1
        return self._free.pop()

    def free(self, state: int, interactive: bool) -> None:
        """Return a state."""
        self._free.append(state)
        self._num_taken[interactive] -= 1
