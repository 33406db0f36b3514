"""Percentiles, goodput, ratios and slopes of the classifier benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.classifier.comparison import ratios
from benchmarks.classifier.figures import (
    OpenCalls,
    overload_figures,
    percentile,
    point,
    slope_per_minute,
)
from benchmarks.classifier.load.plans import (
    NO_ANSWER,
    OK,
    RESOURCE_EXHAUSTED,
    ClosedResult,
    OpenResult,
)


def open_calls(calls: list[tuple[float, float, int]]) -> OpenCalls:
    """Calls of (second due, latency in ms, status), sent when due."""
    due = [call[0] for call in calls]
    return OpenCalls(
        OpenResult(due, due, [call[1] for call in calls], [call[2] for call in calls], 10.0, [1.0])
    )


def steady(start: float, end: float, latency_ms: float, status: int = OK) -> list:
    """A hundred calls a second, all alike."""
    return [(float(at), latency_ms, status) for at in np.arange(start, end - 1e-9, 0.01)]


def test_percentile_interpolates_between_neighbours() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile(list(range(101)), 99) == 99.0


def test_percentile_of_nothing_is_unknown() -> None:
    assert percentile([], 99) is None


def test_a_point_has_throughput_and_latency_under_the_issues_names() -> None:
    figures = point(ClosedResult(40, [10.0] * 41, {}, 0, 2.0, 0.5))
    assert figures["images_per_second"] == 20.0
    assert (figures["p50_ms"], figures["p99_ms"]) == (10.0, 10.0)
    assert figures["generator_cores"] == 0.25
    assert "failed" not in figures


def test_a_point_names_failures_and_refusals() -> None:
    figures = point(ClosedResult(0, [], {"HTTP 500": 3}, 2, 1.0, 0.0))
    assert (figures["failed"], figures["refused_tries"]) == ({"HTTP 500": 3}, 2)


def test_goodput_counts_successes_by_the_time_of_their_answer() -> None:
    calls = open_calls([(0.0, 100, OK), (0.9, 200, OK), (0.5, 1, RESOURCE_EXHAUSTED)])
    assert calls.goodput(0.0, 1.0) == 1.0
    assert calls.goodput(1.0, 2.0) == 1.0


def test_calls_are_counted_as_accepted_refused_or_failed() -> None:
    calls = open_calls([(0.1, 1, OK), (0.2, 1, RESOURCE_EXHAUSTED), (0.3, 1, NO_ANSWER), (5, 1, 0)])
    assert calls.counts(0.0, 1.0) == {"accepted": 1, "refused": 1, "failed": 1}
    assert calls.failures(0.0, 1.0) == {"-1": 1}


def test_lag_is_how_late_calls_were_sent() -> None:
    result = OpenResult([0.0, 1.0], [0.5, 1.5], [1.0, 1.0], [OK, OK], 2.0, [1.0])
    assert OpenCalls(result).lag_p99_ms(0.0, 2.0) == pytest.approx(500.0)


def test_recovery_is_the_time_until_a_second_is_as_fast_as_before() -> None:
    calls = open_calls(steady(0.0, 2.0, 400.0) + steady(2.0, 6.0, 12.0))
    assert calls.recovery_seconds(0.0, 6.0, normal_p99_ms=10.0) == pytest.approx(2.0, abs=0.11)


def test_recovery_is_at_once_where_nothing_was_slow() -> None:
    assert open_calls(steady(0.0, 3.0, 10.0)).recovery_seconds(0.0, 3.0, 10.0) == 0.0


def test_there_is_no_recovery_while_calls_are_refused() -> None:
    refused = steady(0.0, 3.0, 10.0) + [(at + 0.5, 1.0, RESOURCE_EXHAUSTED) for at in range(3)]
    assert open_calls(refused).recovery_seconds(0.0, 3.0, 10.0) is None


def test_overload_compares_its_worst_load_with_the_normal_one() -> None:
    loads = {
        "0.8x": {"goodput": 80.0, "accepted_p99_ms": 20.0, "refusal_p99_ms": None},
        "2x": {"goodput": 96.0, "accepted_p99_ms": 30.0, "refusal_p99_ms": 5.0},
        "10x": {"goodput": 99.0, "accepted_p99_ms": 25.0, "refusal_p99_ms": 9.0},
    }
    assert overload_figures(loads, 100.0, "0.8x", ["2x", "10x"]) == {
        "goodput_ratio": 0.96,
        "refusal_p99_ms": 9.0,
        "accepted_p99_ratio": 1.5,
    }


def test_overload_without_accepted_calls_has_no_ratio() -> None:
    dead = {"goodput": 0.0, "accepted_p99_ms": None, "refusal_p99_ms": None}
    figures = overload_figures({"a": dead, "b": dead}, 10.0, "a", ["b"])
    assert figures == {"goodput_ratio": 0.0, "refusal_p99_ms": None, "accepted_p99_ratio": None}


def test_slope_is_per_minute() -> None:
    assert slope_per_minute([0.0, 30.0, 60.0], [100.0, 101.0, 102.0]) == pytest.approx(2.0)
    assert slope_per_minute([3.0], [100.0]) is None


def test_ratios_compare_ours_with_the_best_peer_of_each_figure() -> None:
    rows = {
        "1": {
            "cytosynth": {"images_per_second": 30.0, "p50_ms": 12.0, "p99_ms": 20.0},
            "grpc.aio": {"images_per_second": 15.0, "p50_ms": 8.0, "p99_ms": 40.0},
            "litserve": {"images_per_second": 20.0, "p50_ms": 14.0, "p99_ms": 25.0},
        }
    }
    assert ratios(rows) == {
        "1": {"throughput_ratio": 1.5, "p99_ratio": 0.8, "p50_ratio_to_grpc_aio": 1.5}
    }
