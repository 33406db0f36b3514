"""Series of the classifier: names, tags, and numbers that counters accept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest

from services.classifier.metrics import SeriesMetrics


class Recorded:
    """Stands in for ``ray.serve.metrics``: as strict, and remembers everything."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(list)

    def series(
        self,
        name: str,
        description: str,
        tag_keys: Sequence[str] = (),
        boundaries: Sequence[float] | None = None,
    ) -> SimpleNamespace:
        assert description.endswith(".")

        def record(value: float, tags: Mapping[str, str] | None = None) -> None:
            tags = tags or {}
            assert set(tags) == set(tag_keys)
            self.values[name, tuple(tags[key] for key in tag_keys)].append(value)

        def inc(value: float, tags: Mapping[str, str] | None = None) -> None:
            if value <= 0:
                raise ValueError(f"value must be >0, got {value}")
            record(value, tags)

        return SimpleNamespace(inc=inc, observe=record)

    @property
    def module(self) -> SimpleNamespace:
        return SimpleNamespace(Counter=self.series, Histogram=self.series)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_predictions_are_counted_by_class(recorded: Recorded) -> None:
    metrics = SeriesMetrics(recorded.module)
    metrics.classified("lab", "resnet18", ["blast", "blast", "monocyte"])
    assert recorded.values == {
        ("cytosynth_classifier_images_total", ("resnet18",)): [3],
        ("cytosynth_classifier_predictions_total", ("lab", "blast")): [2],
        ("cytosynth_classifier_predictions_total", ("lab", "monocyte")): [1],
    }


def test_a_call_without_a_readable_image_counts_nothing(recorded: Recorded) -> None:
    SeriesMetrics(recorded.module).classified("lab", "resnet18", [])
    assert not recorded.values


def test_batches_waits_and_refusals_have_series(recorded: Recorded) -> None:
    metrics = SeriesMetrics(recorded.module)
    metrics.batch_computed(2, [0.01, 0.02])
    metrics.refused("lab")
    assert recorded.values == {
        ("cytosynth_classifier_batch_images", ()): [2],
        ("cytosynth_classifier_queue_wait_seconds", ()): [0.01, 0.02],
        ("cytosynth_classifier_refusals_total", ("lab",)): [1],
    }
