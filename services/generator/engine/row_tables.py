"""Inputs per row of a batch; a step copies only changes.

A *table* holds one entry per adapter or prompt that is loaded, each of its own size; the *rows*
hold, for each row of the batch, the entry it uses now. Layers of the UNet read the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

EMPTY = 0


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device, without waiting for a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class RowTable:
    """Entries of named parts; each row of a batch uses one.

    Entry ``EMPTY`` is all zeros. Use from one thread.
    """

    def __init__(self, batch_rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self._batch_rows, self._dtype, self._device = batch_rows, dtype, device
        self._rows: dict[str, torch.Tensor] = {}
        self._views: dict[int, dict[str, torch.Tensor]] = {}
        self._entries: dict[int, dict[str, torch.Tensor]] = {EMPTY: {}}
        self._used = np.zeros(batch_rows, np.int64)

    @property
    def filled(self) -> list[int]:
        """Entries in the table; ``EMPTY`` where there is none."""
        return list(self._entries)[1:] or [EMPTY]

    @property
    def used(self) -> np.ndarray:
        """Entry of each row, int64 (batch_rows,); -1 for a removed one."""
        return self._used

    @property
    def num_bytes(self) -> int:
        """Memory of the entries, without that of the rows."""
        return sum(part.nbytes for parts in self._entries.values() for part in parts.values())

    def grow(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Add parts that rows lack; says whether there were any."""
        new = {name: shape for name, shape in shapes.items() if name not in self._rows}
        for name, shape in new.items():
            self._rows[name] = torch.zeros(
                self._batch_rows, *shape, dtype=self._dtype, device=self._device
            )
            self._views.clear()
        return bool(new)

    def rows(self, name: str) -> torch.Tensor:
        """One part of all rows, (batch_rows, *shape); always the same tensor."""
        return self._rows[name]

    def put(self, entry: int, parts: Mapping[str, torch.Tensor]) -> None:
        """Fill an entry, from 1 on; parts not given are zero."""
        self.remove(entry)
        self._entries[entry] = {
            name: part.to(self._device, self._dtype) for name, part in parts.items()
        }

    def remove(self, entry: int) -> None:
        """Free an entry's memory, if there is such an entry."""
        if entry != EMPTY and self._entries.pop(entry, None) is not None:
            self._used[self._used == entry] = -1  # those rows hold what the entry was

    def select(self, entries: Sequence[int]) -> None:
        """Copy ``entries`` into the first rows; rows beyond keep what they have."""
        wanted = np.asarray(entries, np.int64)
        for row in np.flatnonzero(self._used[: len(wanted)] != wanted).tolist():
            entry = int(wanted[row])
            parts, views = self._entries[entry], self._parts(row)
            if parts:  # hundreds of small tensors: one call instead of one for each
                torch._foreach_copy_([views[name] for name in parts], list(parts.values()))
            absent = [view for name, view in views.items() if name not in parts]
            if absent:
                torch._foreach_zero_(absent)
            self._used[row] = entry

    def _parts(self, row: int) -> dict[str, torch.Tensor]:
        """Views of all parts of one row, by name."""
        views = self._views.get(row)
        if views is None:
            views = self._views[row] = {name: rows[row] for name, rows in self._rows.items()}
        return views


def place_rows(
    keys: Sequence[tuple[int, ...]], current: Sequence[tuple[int, ...]], num_places: int
) -> list[int]:
    """Choose a place for each key, preferably one that holds it already.

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
