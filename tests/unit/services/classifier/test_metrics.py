"""Series of the classifier: names, labels and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.classifier.metrics import SeriesMetrics
from tests.support.servers.series import own_series

_NAME = "cytosynth_classifier_"


def test_predictions_are_counted_by_class(tmp_path: Path) -> None:
    with own_series(tmp_path) as read:
        SeriesMetrics().classified("lab", "resnet18", ["blast", "blast", "monocyte"])
        found = read()
    assert found[_NAME + 'images_total{architecture="resnet18"}'] == 3
    assert found[_NAME + 'predictions_total{class_id="blast",tenant="lab"}'] == 2
    assert found[_NAME + 'predictions_total{class_id="monocyte",tenant="lab"}'] == 1


def test_a_call_without_a_readable_image_counts_nothing(tmp_path: Path) -> None:
    with own_series(tmp_path) as read:
        SeriesMetrics().classified("lab", "resnet18", [])
        assert not any(read().values())


def test_batches_waits_and_refusals_have_series(tmp_path: Path) -> None:
    with own_series(tmp_path) as read:
        metrics = SeriesMetrics()
        metrics.batch_computed(2, [0.0125, 0.025])
        metrics.refused("lab")
        found = read()
    assert found[_NAME + 'batch_images_bucket{le="1.0"}'] == 0
    assert found[_NAME + 'batch_images_bucket{le="2.0"}'] == 1
    assert found[_NAME + "queue_wait_seconds_sum"] == pytest.approx(0.0375)
    assert found[_NAME + "queue_wait_seconds_count"] == 2
    assert found[_NAME + 'refusals_total{tenant="lab"}'] == 1
