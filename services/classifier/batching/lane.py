"""Images of one tenant for one classifier version, from arrival to batch."""

from __future__ import annotations

from dataclasses import dataclass

from services.classifier.batching.flows import Flow, Network, Turns, Work


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are computed together.

    Attributes:
        lane: Lane of the images.
        works: The images.
        size: Number of rows to compute, at least the number of images.
        seconds: Time that it is expected to take.
    """

    lane: Lane
    works: list[Work]
    size: int
    seconds: float


class Lane:
    """Queue of one classifier version; not thread-safe."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.tenant = network.lane[0]
        self.flows: dict[Flow, None] = {}
        self.num_ready = 0
        self.num_coming = 0
        self._turns = Turns(lambda flow: flow.decoded)

    @property
    def num_waiting(self) -> int:
        """Images that are in no batch yet."""
        return self.num_ready + self.num_coming

    def come(self, flow: Flow) -> None:
        """Counts an image that is going to be decoded."""
        self.flows.setdefault(flow)
        self.num_coming += 1

    def fail(self, flow: Flow) -> None:
        """Counts an image off that could not be decoded."""
        self.num_coming -= 1
        self._forget(flow)

    def ready(self, work: Work) -> None:
        """Puts a decoded image into the next batches."""
        self.num_coming -= 1
        self.num_ready += 1
        work.flow.decoded.append(work)
        self._turns.join(work.flow)

    def remove(self, flow: Flow) -> list[Work]:
        """Removes all images of a flow but those that a thread decodes."""
        removed = [*flow.encoded, *flow.decoded]
        self.num_coming -= len(flow.encoded)
        self.num_ready -= len(flow.decoded)
        flow.encoded.clear()
        flow.decoded.clear()
        self._turns.leave(flow)
        self._forget(flow)
        return removed

    def closes_at(self, patience: float) -> float:
        """When the next batch closes, monotonic seconds; an image is ready.

        Args:
            patience: Longest wait of an image for others that are still decoded, seconds.
        """
        if not self.num_coming or self.num_ready >= self.network.times.best_size:
            return 0.0
        return min(flow.decoded[0].ready for flow in self._turns) + patience

    def next_batch(self) -> Batch:
        """Takes the images of the next batch; at least one is ready."""
        times = self.network.times
        number, size = times.batch(self.num_ready)
        works = [self._turns.take() for _ in range(number)]
        self.num_ready -= number
        for work in works:
            self._forget(work.flow)
        return Batch(self, works, size, times.seconds(size))

    def over(self, now: float) -> list[Flow]:
        """Flows that nobody waits for any more."""
        return [flow for flow in self.flows if flow.is_over(now)]

    def _forget(self, flow: Flow) -> None:
        if not flow.num_waiting:
            self.flows.pop(flow, None)
