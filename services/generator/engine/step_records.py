"""Reports of an engine's steps: durations, rows used, counts by tenant."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

_AVERAGING_SECONDS = 20.0


@dataclass(frozen=True)
class Tally:
    """Counts by tenant.

    Attributes:
        evaluations: UNet evaluations.
        not_finite: Images withheld because the model gave NaN or infinity; their streams fail.
        near_duplicates: Images withheld because they are near-duplicates of training images.
        adapter_hits: Images whose weights were resident when they began.
        adapter_misses: Weights that had to be loaded.
    """

    evaluations: Counter[str] = field(default_factory=Counter)
    not_finite: Counter[str] = field(default_factory=Counter)
    near_duplicates: Counter[str] = field(default_factory=Counter)
    adapter_hits: Counter[str] = field(default_factory=Counter)
    adapter_misses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class StepRecord:
    """One step of the engine.

    Attributes:
        seconds: Duration, decoding included.
        num_rows: Rows of the batch that images used.
        num_rows_padded: Rows that were evaluated, padding included.
        num_images_finished: Images handed out.
        tally: Counts since the record before.
    """

    seconds: float
    num_rows: int
    num_rows_padded: int
    num_images_finished: int
    tally: Tally


class ThroughputMeter:
    """Throughput of full batches, an exponential average over 20 s."""

    def __init__(self) -> None:
        self.evaluations_per_second = 0.0
        self._seconds = 0.0

    def add(self, num_rows: int, seconds: float) -> None:
        """Take one step with a full batch into the average."""
        if seconds <= 0:
            return
        self._seconds = min(self._seconds + seconds, _AVERAGING_SECONDS)
        weight = min(1.0, seconds / self._seconds)
        self.evaluations_per_second += weight * (num_rows / seconds - self.evaluations_per_second)
