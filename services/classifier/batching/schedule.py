"""Admission of calls, and the order of decoding and of batches.

Tenants share the computing time: the batch of the tenant that was served least comes next. Calls
of a tenant take turns image by image, so that a single cell does not wait for a folder of them.
Everything here is plain state; ``engine`` holds the threads and the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.classifier.batching.flows import Flow, Network, Turns, Work
from services.classifier.batching.gate import Gate
from services.classifier.batching.lane import Batch, Lane
from services.classifier.batching.service_times import ServiceTimes

_SMOOTHING = 0.05
_LEAST_WAIT = 0.02
"""Wait that is always allowed, seconds."""


@dataclass(frozen=True)
class Limits:
    """What the schedule allows.

    Attributes:
        patience: Longest wait of an image for others of its batch, seconds.
        max_wait: Estimated wait above which calls are refused, seconds; 0: as a few batches take.
        num_decoders: Threads that decode.
        num_workers: Batches computed at once.
    """

    patience: float = 0.005
    max_wait: float = 0.0
    num_decoders: int = 1
    num_workers: int = 1


class Schedule:
    """Queues of all tenants; not thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._to_decode: dict[str, Turns] = {}
        self._served: dict[str, float] = {}
        self._running: dict[Batch, float] = {}
        self._decode_seconds = 0.001
        self._gates: dict[str, Gate] = {}

    @property
    def num_waiting(self) -> int:
        """Images that are in no batch yet."""
        return sum(lane.num_waiting for lane in self._lanes.values())

    @property
    def num_coming(self) -> int:
        """Images that are not decoded yet."""
        return sum(lane.num_coming for lane in self._lanes.values())

    def excess_wait(self, tenant: str, network: Network | None, now: float) -> float:
        """Seconds by which a new call would wait too long; else 0.

        Args:
            tenant: Caller.
            network: Classifier that is asked, None if not known yet.
            now: Monotonic seconds.
        """
        allowed = self.limits.max_wait
        if not allowed:
            asked = [lane.network for lane in self._lanes.values()] + ([network] if network else [])
            allowed = max(
                (_allowed_wait(each.times, self.limits.num_workers) for each in asked),
                default=_LEAST_WAIT,
            )
        wait = self.estimated_wait(tenant, now)
        gate = self._gates.get(tenant)
        if gate is None:
            self._gates = {each: known for each, known in self._gates.items() if known.is_shut(now)}
            gate = self._gates[tenant] = Gate(now)
        return max(0.0, wait - allowed) if gate.refuses(wait, allowed, now) else 0.0

    def estimated_wait(self, tenant: str, now: float) -> float:
        """Seconds until a new call's first image would be computed."""
        own, others = 0.0, 0.0
        for lane in self._lanes.values():
            if lane.tenant == tenant:  # its calls take turns: one image of each is ahead
                own += lane.network.times.estimate(min(lane.num_waiting, len(lane.flows)))
        for lane in self._lanes.values():
            if lane.tenant != tenant:
                turn = lane.network.times.seconds(lane.network.times.best_size)
                others += min(lane.network.times.estimate(lane.num_waiting), own + turn)
        left = [max(0.0, start + batch.seconds - now) for batch, start in self._running.items()]
        is_busy = len(left) >= self.limits.num_workers
        compute = own + others + (sum(left) if is_busy else 0.0)
        decode = len(self._to_decode.get(tenant, ())) * self._decode_seconds
        return max(compute / self.limits.num_workers, decode / self.limits.num_decoders)

    def submit(self, work: Work, now: float) -> None:
        """Queues one image of an admitted call."""
        flow = work.flow
        work.submitted = now
        lane = self._lanes.get(flow.network.lane)
        if lane is None:
            self._start_serving(flow.tenant)
            lane = self._lanes[flow.network.lane] = Lane(flow.network)
        flow.encoded.append(work)
        lane.come(flow)
        turns = self._to_decode.setdefault(flow.tenant, Turns(lambda each: each.encoded))
        turns.join(flow)

    def next_to_decode(self) -> Work | None:
        """Takes the next image to decode, tenants in turn."""
        while self._to_decode:
            tenant, turns = next(iter(self._to_decode.items()))
            del self._to_decode[tenant]
            if not len(turns):
                continue
            work = turns.take()
            if len(turns):
                self._to_decode[tenant] = turns
            work.flow.num_decoding += 1
            return work
        return None

    def decoded(self, work: Work, seconds: float, now: float) -> None:
        """Queues a decoded image for a batch, unless its caller left."""
        flow, lane = work.flow, self._lanes[work.flow.network.lane]
        flow.num_decoding -= 1
        self._decode_seconds += _SMOOTHING * (seconds - self._decode_seconds)
        if work.image is None or flow.cancelled:
            lane.fail(flow)
            self._drop_if_empty(lane)
        else:
            work.ready = now
            lane.ready(work)

    def next_batch(self, now: float) -> tuple[Batch | None, float | None]:
        """Takes the next batch.

        Returns:
            The batch, or None and the seconds after which one closes; None for these too if
            nothing is ready.
        """
        open_until: list[float] = []
        closed: list[Lane] = []
        for lane in self._lanes.values():
            if lane.num_ready:
                at = lane.closes_at(self.limits.patience)
                closed.append(lane) if at <= now else open_until.append(at)
        if not closed:
            return None, min(open_until) - now if open_until else None
        lane = min(closed, key=lambda each: self._served.get(each.tenant, 0.0))
        batch = lane.next_batch()
        self._served[lane.tenant] = self._served.get(lane.tenant, 0.0) + batch.seconds
        self._running[batch] = now
        self._drop_if_empty(lane)
        return batch, None

    def finished(self, batch: Batch, seconds: float | None) -> None:
        """Takes the time of a batch into account; None if it failed."""
        del self._running[batch]
        if seconds is not None:
            batch.lane.network.times.record(batch.size, seconds)

    def cancel(self, flow: Flow) -> list[Work]:
        """Removes the images of a flow that are in no batch yet."""
        flow.cancelled = True
        lane = self._lanes.get(flow.network.lane)
        if lane is None:
            return []
        if turns := self._to_decode.get(flow.tenant):
            turns.leave(flow)
        removed = lane.remove(flow)
        self._drop_if_empty(lane)
        return removed

    def expire(self, now: float) -> Sequence[Work]:
        """Removes images whose deadline has passed."""
        over = [flow for lane in self._lanes.values() for flow in lane.over(now)]
        return [work for flow in over for work in self.cancel(flow)]

    def _start_serving(self, tenant: str) -> None:
        """Gives a returning tenant no claim on time it left unused."""
        active = {lane.tenant for lane in self._lanes.values()}
        if tenant not in active:
            least = min((self._served.get(each, 0.0) for each in active), default=0.0)
            self._served = {each: self._served.get(each, 0.0) for each in active}
            self._served[tenant] = max(self._served.get(tenant, 0.0), least)

    def _drop_if_empty(self, lane: Lane) -> None:
        if not lane.num_waiting:
            self._lanes.pop(lane.network.lane, None)


def _allowed_wait(times: ServiceTimes, num_workers: int) -> float:
    """Wait above which calls are refused where no limit is set, seconds.

    Keeps batches full under overload, and refuses nobody at 80 % load. Found by the simulation of
    ``test_overload_goals``. Random arrivals even out among workers, so that fewer images need to
    wait for each.
    """
    batches = (0.75 + 1 / num_workers) * times.seconds(times.best_size)
    images = (2 + 12 / num_workers) * times.seconds_per_image
    return max(_LEAST_WAIT, batches, images)
