"""The report's section about overload, of a made-up run."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.classifier.load.plans import OK, RESOURCE_EXHAUSTED, OpenResult
from benchmarks.classifier.overload import Lengths, phases, section

CAPACITY = 50.0
LENGTHS = Lengths(capacity=1.0, load=4.0, rest=4.0, ramp=1.0)


def perfect_server() -> OpenResult:
    """Calls at equal distances, refused where they come too soon."""
    due: list[float] = []
    status: list[int] = []
    start, next_free = 0.0, 0.0
    for phase in phases(CAPACITY, LENGTHS):
        for at in start + np.arange(0, phase.seconds - 1e-9, 1 / phase.calls_per_second):
            accepted = at >= next_free - 1e-6
            next_free = max(next_free, at) + 1 / CAPACITY if accepted else next_free
            due.append(float(at))
            status.append(OK if accepted else RESOURCE_EXHAUSTED)
        start += phase.seconds
    latency_ms = [20.0 if code == OK else 2.0 for code in status]
    cpu_seconds = [0.1] * len(phases(CAPACITY, LENGTHS))
    return OpenResult(due, due, latency_ms, status, start, cpu_seconds)


def test_loads_are_multiples_of_capacity_with_a_rest_after_each_overload() -> None:
    planned = phases(CAPACITY, LENGTHS)
    assert [phase.name for phase in planned] == [
        "0.8x", "1x", "before 2x", "2x", "after 2x", "before 10x", "10x", "after 10x",
    ]  # fmt: skip
    assert [phase.calls_per_second for phase in planned] == [40, 50, 40, 100, 40, 40, 500, 40]


def test_the_section_has_the_four_figures_of_the_issue_as_json() -> None:
    found = section(CAPACITY, phases(CAPACITY, LENGTHS), perfect_server(), LENGTHS.ramp)
    read = json.loads(json.dumps(found))
    assert read["goodput_ratio"] > 0.95
    assert read["refusal_p99_ms"] == 2.0
    assert read["accepted_p99_ratio"] == 1.0
    assert read["recovery_seconds"] < 0.5


def test_each_load_tells_what_the_generator_itself_took() -> None:
    found = section(CAPACITY, phases(CAPACITY, LENGTHS), perfect_server(), LENGTHS.ramp)
    assert found["loads"]["10x"]["generator_cores"] == 0.025
    assert found["loads"]["10x"]["refused"] > 10 * found["loads"]["10x"]["accepted"] * 0.7
