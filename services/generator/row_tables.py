"""What differs from row to row of a batch, kept so that a step copies only what changed.

A *table* holds one entry per adapter or prompt that is loaded; the *rows* hold, for each row of
the batch, the entry it uses now. Layers of the UNet read the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

EMPTY = 0


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, from pinned memory: the host does not wait for a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class RowTable:
    """Entries made of named parts, and the rows of a batch that each use one entry.

    Entry ``EMPTY`` is all zeros. Use from one thread.
    """

    def __init__(
        self, num_entries: int, num_rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._num_entries, self._num_rows = num_entries, num_rows
        self._dtype, self._device = dtype, device
        self._tables: dict[str, torch.Tensor] = {}
        self._rows: dict[str, torch.Tensor] = {}
        self._used = np.zeros(num_rows, np.int64)
        self._filled: dict[int, None] = {}
        self._views: dict[tuple[bool, int], list[torch.Tensor]] = {}

    @property
    def filled(self) -> list[int]:
        """Entries that were ever filled; ``EMPTY`` where none was."""
        return list(self._filled) or [EMPTY]

    @property
    def used(self) -> np.ndarray:
        """Entry that each row uses, int64 (num_rows,), -1 where it holds an old one."""
        return self._used

    def grow(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Make room for parts that entries did not have yet; says whether there were any."""
        new = {name: shape for name, shape in shapes.items() if name not in self._tables}
        for name, shape in new.items():
            for tensors, count in (
                (self._tables, self._num_entries + 1),
                (self._rows, self._num_rows),
            ):
                tensors[name] = torch.zeros(count, *shape, dtype=self._dtype, device=self._device)
            self._views.clear()
        return bool(new)

    def rows(self, name: str) -> torch.Tensor:
        """One part of all rows, (num_rows, *shape); the same tensor for good."""
        return self._rows[name]

    def put(self, entry: int, parts: Mapping[str, torch.Tensor]) -> None:
        """Fill an entry (1 to num_entries); parts that are not given are zero."""
        for name, table in self._tables.items():
            if name in parts:
                table[entry].copy_(parts[name])
            else:
                table[entry].zero_()
        self._filled[entry] = None
        self._used[self._used == entry] = -1  # those rows hold what the entry was

    def select(self, entries: Sequence[int]) -> None:
        """Let the first rows use ``entries``; rows beyond keep what they have."""
        wanted = np.asarray(entries, np.int64)
        for row in np.flatnonzero(self._used[: len(wanted)] != wanted).tolist():
            entry = int(wanted[row])
            if self._tables:  # hundreds of small parts: one call instead of one for each
                torch._foreach_copy_(self._parts(row, of_rows=True), self._parts(entry))
            self._used[row] = entry

    def _parts(self, index: int, of_rows: bool = False) -> list[torch.Tensor]:
        """Views of all parts of one entry or one row."""
        views = self._views.get((of_rows, index))
        if views is None:
            tensors = (self._rows if of_rows else self._tables).values()
            views = self._views[of_rows, index] = [tensor[index] for tensor in tensors]
        return views


def place_rows(
    keys: Sequence[tuple[int, ...]], current: Sequence[tuple[int, ...]], num_places: int
) -> list[int]:
    """A place below ``num_places`` for each key, where possible one that holds that key already.

    Args:
        keys: What each row to be placed uses.
        current: What each place holds now; at least ``num_places``.
        num_places: Not fewer than keys.
    """
    free: dict[tuple[int, ...], list[int]] = {}
    for place in reversed(range(num_places)):
        free.setdefault(current[place], []).append(place)
    places = [free[key].pop() if free.get(key) else -1 for key in keys]
    rest = iter(sorted(place for left in free.values() for place in left))
    return [place if place >= 0 else next(rest) for place in places]
