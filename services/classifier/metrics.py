"""Figures of serving, for whatever records them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

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

    def __init__(self, metrics: Any) -> None:
        """Creates the series.

        Args:
            metrics: ``ray.serve.metrics``, handed in so that this module needs no Ray.
        """
        self._images = metrics.Counter(
            "cytosynth_classifier_images_total", "Images classified.", tag_keys=("architecture",)
        )
        self._predictions = metrics.Counter(
            "cytosynth_classifier_predictions_total",
            "Images by their most probable class.",
            tag_keys=("tenant", "class_id"),
        )
        self._waits = metrics.Histogram(
            "cytosynth_classifier_queue_wait_seconds",
            "Time of an image from its arrival to its batch, seconds.",
            boundaries=_WAITS,
        )
        self._batches = metrics.Histogram(
            "cytosynth_classifier_batch_images", "Images of a batch.", boundaries=_SIZES
        )
        self._refusals = metrics.Counter(
            "cytosynth_classifier_refusals_total",
            "Calls refused because they would have waited too long.",
            tag_keys=("tenant",),
        )

    def classified(self, tenant: str, architecture: str, predicted: Sequence[str]) -> None:
        if predicted:  # Ray's counters refuse to count nothing
            self._images.inc(len(predicted), tags={"architecture": architecture})
        for class_id, number in Counter(predicted).items():
            self._predictions.inc(number, tags={"tenant": tenant, "class_id": class_id})

    def batch_computed(self, num_images: int, waits: Sequence[float]) -> None:
        self._batches.observe(num_images)
        for wait in waits:
            self._waits.observe(wait)

    def refused(self, tenant: str) -> None:
        self._refusals.inc(1, tags={"tenant": tenant})
