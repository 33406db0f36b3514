"""The supervisor exports its start and the restarts of its parts."""

from __future__ import annotations

import time

import pytest

from services.launch.stack_metrics import StackMetrics
from tests.support.servers.series import own_series


def test_restarts_are_counted_from_none(tmp_path) -> None:
    with own_series(tmp_path) as read:
        metrics, found = StackMetrics(), []
        for restarts in (0, 1, 1, 3):
            metrics.tell(restarts)
            found.append(read()['cytosynth_stack_part_restarts_total{part="edge"}'])
        start = read()["cytosynth_stack_start_time_seconds"]
    assert found == [0, 1, 1, 3]
    assert start == pytest.approx(time.time(), abs=60)
