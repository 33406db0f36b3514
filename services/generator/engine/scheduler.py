"""Step scheduler of continuous batching: whose images take the next step.

Every step has a fixed number of rows.  Interactive work goes before bulk work, and who has used
the fewest rows so far goes first (start-time fair queueing, Goyal et al. 1996): tenants among each
other, then requests of one tenant.  Streams of one request go in order.  Nothing here knows torch.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

BULK_SHARE = 8
"""While both wait, bulk work keeps one row in this many."""

_Key = tuple[str, ...]
"""(tenant,) or (tenant, request id)."""


class Schedulable(Protocol):
    """A stream of images that take steps; compared by identity.

    Attributes:
        tenant: Shares are per tenant.
        request_id: Shares within a tenant are per request.
        interactive: Goes before bulk work.
    """

    tenant: str
    request_id: str
    interactive: bool

    @property
    def has_waiting(self) -> bool:
        """Whether any image has not begun."""


class Steppable(Protocol):
    """An image in flight; compared by identity."""

    @property
    def num_rows(self) -> int:
        """Rows of its next step."""


StreamT = TypeVar("StreamT", bound=Schedulable)
ImageT = TypeVar("ImageT", bound=Steppable)


class StepScheduler(Generic[StreamT, ImageT]):
    """The streams of one sampler, and their images in flight."""

    def __init__(self, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        # Never changed in place: other threads iterate for metrics and to find idle engines.
        self._in_flight: dict[StreamT, list[ImageT]] = {}
        self._used: dict[_Key, float] = {}

    def __iter__(self) -> Iterator[StreamT]:
        return iter(self._in_flight)

    def in_flight(self, stream: StreamT) -> Sequence[ImageT]:
        """A stream's images in flight, in the order in which they began."""
        return self._in_flight.get(stream, ())

    def is_idle(self, stream: StreamT) -> bool:
        """Whether a stream wants no rows now."""
        return not self.in_flight(stream) and not stream.has_waiting

    def add(self, stream: StreamT) -> None:
        """Take a stream in; a newcomer starts level, without a credit."""
        for key, rivals in self._levels(stream):
            if key not in self._used:
                self._used[key] = min((self._used[rival] for rival in rivals), default=0.0)
        self._in_flight = {**self._in_flight, stream: self._in_flight.get(stream, [])}

    def add_first(self, stream: StreamT) -> None:
        """Take a stream in, or again, before others of its request."""
        self.add(stream)
        self._in_flight = {stream: self._in_flight[stream], **self._in_flight}

    def remove(self, stream: StreamT) -> Sequence[ImageT]:
        """Forget a stream; gives its images in flight."""
        removed = self.in_flight(stream)
        self._in_flight = {
            other: images for other, images in self._in_flight.items() if other is not stream
        }
        here = {key for other in self._in_flight for key in _keys(other)}
        self._used = {key: used for key, used in self._used.items() if key in here}
        return removed

    def finish(self, stream: StreamT, image: ImageT) -> None:
        """Forget an image that takes no more steps."""
        self._in_flight[stream].remove(image)

    def pick(self, begin: Callable[[StreamT], ImageT | None]) -> list[ImageT]:
        """Choose the images of the next step; their rows fit the batch.

        Args:
            begin: Starts a stream's next image where none in flight is left; None if the stream
                has none or cannot start one now.
        """
        self._level_idle()
        interactive = [stream for stream in self._in_flight if stream.interactive]
        bulk = [stream for stream in self._in_flight if not stream.interactive]
        kept = max(2, self._batch_rows // BULK_SHARE) if bulk else 0
        picked: dict[ImageT, None] = {}
        left = kept + self._fill(interactive, self._batch_rows - kept, begin, picked)
        left = self._fill(bulk, left, begin, picked)
        if left:
            self._fill(interactive, left, begin, picked)
        return list(picked)

    def _level_idle(self) -> None:
        """Let no stream that wants no rows now save up credit."""
        busy = {
            key for stream in self._in_flight if not self.is_idle(stream) for key in _keys(stream)
        }
        least: dict[_Key, float] = {}
        for key in busy:
            least[key[:-1]] = min(self._used[key], least.get(key[:-1], math.inf))
        for key in self._used.keys() - busy:
            self._used[key] = max(self._used[key], least.get(key[:-1], 0.0))

    def _fill(
        self,
        streams: Iterable[StreamT],
        num_rows: int,
        begin: Callable[[StreamT], ImageT | None],
        picked: dict[ImageT, None],
    ) -> int:
        """Add images of ``streams`` to ``picked``; gives how many rows are left."""
        queues: dict[str, dict[str, deque[StreamT]]] = {}
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
            image = self._next(stream, begin, picked)
            if image is not None and image.num_rows <= num_rows:
                picked[image] = None
                num_rows -= image.num_rows
                tenant_key, request_key = _keys(stream)
                self._used[tenant_key] += image.num_rows
                self._used[request_key] += image.num_rows
                heapq.heapreplace(requests, (self._used[request_key], i, queue))
                heapq.heapreplace(tenants, (self._used[tenant_key], place, requests))
                continue
            queue.popleft()
            if not queue:
                heapq.heappop(requests)
            if not requests:
                heapq.heappop(tenants)
        return num_rows

    def _next(
        self,
        stream: StreamT,
        begin: Callable[[StreamT], ImageT | None],
        picked: dict[ImageT, None],
    ) -> ImageT | None:
        """The stream's next image, of those in flight first."""
        in_flight = self._in_flight[stream]
        image = next((image for image in in_flight if image not in picked), None)
        if image is None:
            image = begin(stream)
            if image is not None:
                in_flight.append(image)
        return image

    def _levels(self, stream: StreamT) -> Iterator[tuple[_Key, list[_Key]]]:
        for level, key in enumerate(_keys(stream)):
            rivals = {_keys(other)[level] for other in self._in_flight}
            yield key, [rival for rival in rivals if rival[:-1] == key[:-1]]


def _keys(stream: Schedulable) -> tuple[_Key, _Key]:
    return (stream.tenant,), (stream.tenant, stream.request_id)
