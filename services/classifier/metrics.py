"""Figures of serving, for whatever records them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import prometheus_client
from prometheus_client import Histogram

_WAITS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
_SIZES = [1, 2, 4, 8, 16, 32]


class ServingMetrics:
    """Receives what happens, from several threads; records nothing itself."""

    def classified(self, tenant: str, architecture: str, predicted: Sequence[str]) -> None:
        """Images were answered with these classes."""

    def batch_computed(self, num_images: int, waits: Sequence[float]) -> None:
        """Images were computed together, each after so many seconds in the queue."""

    def refused(self, tenant: str) -> None:
        """A call was refused because it would have waited too long."""


class SeriesMetrics(ServingMetrics):
    """Records the figures as series of Prometheus."""

    def __init__(self) -> None:
        """Creates the series; ``exposition.expose`` must come first."""
        name = "cytosynth_classifier_"
        self._images = prometheus_client.Counter(
            name + "images_total", "Images classified.", ("architecture",), registry=None
        )
        self._predictions = prometheus_client.Counter(
            name + "predictions_total",
            "Images by their most probable class.",
            ("tenant", "class_id"),
            registry=None,
        )
        self._waits = Histogram(
            name + "queue_wait_seconds",
            "Time of an image from its arrival to its batch, seconds.",
            buckets=_WAITS,
            registry=None,
        )
        self._batches = Histogram(
            name + "batch_images", "Images of a batch.", buckets=_SIZES, registry=None
        )
        self._refusals = prometheus_client.Counter(
            name + "refusals_total",
            "Calls refused because they would have waited too long.",
            ("tenant",),
            registry=None,
        )

    def classified(self, tenant: str, architecture: str, predicted: Sequence[str]) -> None:
        self._images.labels(architecture).inc(len(predicted))
        for class_id, number in Counter(predicted).items():
            self._predictions.labels(tenant, class_id).inc(number)

    def batch_computed(self, num_images: int, waits: Sequence[float]) -> None:
        self._batches.observe(num_images)
        for wait in waits:
            self._waits.observe(wait)

    def refused(self, tenant: str) -> None:
        self._refusals.labels(tenant).inc()
