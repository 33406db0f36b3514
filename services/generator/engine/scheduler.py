"""Whose images take the next step: interactive before bulk work, tenants in equal shares.

Every step of the sampler has a fixed number of rows.  Who has used the fewest rows so far goes
first (start-time fair queueing, Goyal et al. 1996): tenants among each other, then requests of
one tenant.  Shards of one request go in order.  Nothing here knows torch.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

BULK_SHARE = 8
"""While both wait, bulk work keeps one row in this many, so that it never stands still."""


@dataclass(eq=False)
class Turn:
    """One image in progress: the next steps of ``stream`` that it needs.

    Attributes:
        stream: Whose it is.
        rows_per_step: Rows of each of its steps: 2 with guidance, 1 without.
        step: The next step, 0 to len(rows_per_step) - 1.
    """

    stream: TurnStream
    rows_per_step: Sequence[int]
    step: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of its next step."""
        return self.rows_per_step[self.step]

    @property
    def done(self) -> bool:
        """Whether all its steps are taken."""
        return self.step >= len(self.rows_per_step)


@dataclass(eq=False)
class TurnStream:
    """Images of one request in order, as far as turns are concerned.

    Attributes:
        tenant: Shares are per tenant.
        request_id: And then per request.
        interactive: Goes before bulk work.
        turns: Images in progress, in the order in which they were begun.
    """

    tenant: str
    request_id: str
    interactive: bool
    turns: list[Turn] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether it wants no rows now, for example while its reader is slow."""
        return False


Begin = Callable[[TurnStream], Turn | None]
"""Starts a stream's next image; None if it has none or cannot start one now."""


class Turns:
    """The streams of one sampler."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        # Never changed in place: other threads iterate for metrics and to find idle engines.
        self._streams: dict[TurnStream, None] = {}
        self._used: dict[tuple[str, ...], float] = {}

    def __iter__(self) -> Iterator[TurnStream]:
        return iter(self._streams)

    def add(self, stream: TurnStream) -> None:
        """Take a stream in; who was idle starts level with the others, not with a credit."""
        for key, rivals in self._levels(stream):
            if key not in self._used:
                self._used[key] = min((self._used[rival] for rival in rivals), default=0.0)
        self._streams = {**self._streams, stream: None}

    def add_first(self, stream: TurnStream) -> None:
        """Take a stream in, or in again, before the others of its request."""
        self.add(stream)
        self._streams = {stream: None, **self._streams}

    def remove(self, stream: TurnStream) -> None:
        """Forget a stream and its images in progress."""
        self._streams = {other: None for other in self._streams if other is not stream}
        here = {key for other in self._streams for key in _keys(other)}
        self._used = {key: used for key, used in self._used.items() if key in here}

    def pick(self, begin: Begin) -> list[Turn]:
        """The images that take the next step; their rows fit into the batch.

        Args:
            begin: Called where a stream has no more images in progress.
        """
        self._level_idle()
        interactive = [stream for stream in self._streams if stream.interactive]
        bulk = [stream for stream in self._streams if not stream.interactive]
        kept = max(2, self._num_rows // BULK_SHARE) if bulk else 0
        picked: dict[Turn, None] = {}
        left = kept + self._fill(interactive, self._num_rows - kept, begin, picked)
        left = self._fill(bulk, left, begin, picked)
        if left:
            self._fill(interactive, left, begin, picked)
        return list(picked)

    def _level_idle(self) -> None:
        """Who wants no rows now saves up no credit."""
        busy = {key for stream in self._streams if not stream.idle for key in _keys(stream)}
        least: dict[tuple[str, ...], float] = {}
        for key in busy:
            least[key[:-1]] = min(self._used[key], least.get(key[:-1], math.inf))
        for key in self._used.keys() - busy:
            self._used[key] = max(self._used[key], least.get(key[:-1], 0.0))

    def _fill(
        self, streams: Iterable[TurnStream], num_rows: int, begin: Begin, picked: dict[Turn, None]
    ) -> int:
        """Add turns of ``streams`` to ``picked``; says how many rows are left."""
        queues: dict[str, dict[str, deque[TurnStream]]] = {}
        for stream in streams:
            of_tenant = queues.setdefault(stream.tenant, {})
            of_tenant.setdefault(stream.request_id, deque()).append(stream)
        tenants = []
        for place, (tenant, of_tenant) in enumerate(queues.items()):
            requests = [
                (self._used[tenant, request_id], i, queue)
                for i, (request_id, queue) in enumerate(of_tenant.items())
            ]
            heapq.heapify(requests)
            tenants.append((self._used[tenant,], place, requests))
        heapq.heapify(tenants)
        while tenants and num_rows:
            _, place, requests = tenants[0]
            _, i, queue = requests[0]
            stream = queue[0]
            turn = next((turn for turn in stream.turns if turn not in picked), None)
            if turn is None:
                turn = begin(stream)
            if turn is not None and turn.num_rows <= num_rows:
                picked[turn] = None
                num_rows -= turn.num_rows
                tenant_key, request_key = _keys(stream)
                self._used[tenant_key] += turn.num_rows
                self._used[request_key] += turn.num_rows
                heapq.heapreplace(requests, (self._used[request_key], i, queue))
                heapq.heapreplace(tenants, (self._used[tenant_key], place, requests))
                continue
            queue.popleft()
            if not queue:
                heapq.heappop(requests)
            if not requests:
                heapq.heappop(tenants)
        return num_rows

    def _levels(
        self, stream: TurnStream
    ) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        for level, key in enumerate(_keys(stream)):
            rivals = {_keys(other)[level] for other in self._streams}
            yield key, [rival for rival in rivals if rival[:-1] == key[:-1]]


def _keys(stream: TurnStream) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (stream.tenant,), (stream.tenant, stream.request_id)
