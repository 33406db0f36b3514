"""Series of the local stack's supervisor."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from services.common.exposition import GAUGE_OF_ONE


class StackMetrics:
    """Start of the stack, and restarts of its parts."""

    def __init__(self) -> None:
        """Begins to count; ``exposition.expose`` must come first."""
        restarts = Counter(
            "cytosynth_stack_part_restarts_total",
            "How often the supervisor started a lost part again.",
            ("part",),
            registry=None,
        )
        start = Gauge(
            "cytosynth_stack_start_time_seconds",
            "When the supervisor started, seconds since 1970.",
            multiprocess_mode=GAUGE_OF_ONE,
            registry=None,
        )
        start.set_to_current_time()
        self._edge_restarts, self._told = restarts.labels("edge"), 0

    def tell(self, num_edge_restarts: int) -> None:
        """Exports how often the edge was started again so far."""
        self._edge_restarts.inc(num_edge_restarts - self._told)
        self._told = num_edge_restarts
