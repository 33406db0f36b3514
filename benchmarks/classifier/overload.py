"""What overload costs accepted calls, and how soon it is over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.classifier.figures import OpenCalls, overload_figures, rounded
from benchmarks.classifier.load.plans import RESOURCE_EXHAUSTED, OpenResult, Phase, Plan, Target
from benchmarks.classifier.load.process import closed, open_loop

NORMAL_LOAD, OVERLOADS = 0.8, (2.0, 10.0)
_CAPACITY_CALLERS = (8, 16, 32)


@dataclass(frozen=True)
class Lengths:
    """Seconds of the parts of a run.

    Attributes:
        capacity, load, rest: Length of each measurement of capacity, each load and each rest.
        ramp: Start of each load, which is left out.
    """

    capacity: float = 6.0
    load: float = 12.0
    rest: float = 15.0
    ramp: float = 2.0


QUICK = Lengths(capacity=1.5, load=3.0, rest=4.0, ramp=0.5)


def name_of(load: float) -> str:
    """Name of a load in the report: ``0.8x``."""
    return f"{load:g}x"


def capacity(target: Target, cells: Path, lengths: Lengths) -> float:
    """Most images per second that a closed loop gets answered."""
    best = 0.0
    for callers in _CAPACITY_CALLERS:
        result = closed(
            Plan(
                "lean",
                target,
                str(cells),
                callers=callers,
                warmup_seconds=lengths.ramp,
                seconds=lengths.capacity,
            )
        )
        best = max(best, result.num_answered / result.seconds)
    return best


def phases(images_per_second: float, lengths: Lengths) -> tuple[Phase, ...]:
    """Loads of the run, each overload with a rest after it."""
    normal = NORMAL_LOAD * images_per_second
    planned = [
        Phase(name_of(NORMAL_LOAD), normal, lengths.load),
        Phase(name_of(1.0), images_per_second, lengths.load),
    ]
    for load in OVERLOADS:
        planned += [
            Phase(f"before {name_of(load)}", normal, lengths.rest / 2),
            Phase(name_of(load), load * images_per_second, lengths.load),
            Phase(f"after {name_of(load)}", normal, lengths.rest),
        ]
    return tuple(planned)


def overload(target: Target, cells: Path, lengths: Lengths, connections: int = 8) -> dict[str, Any]:
    """Measures capacity, offers the loads, and returns the section of the report."""
    measured = capacity(target, cells, lengths)
    plan = Plan(
        "open",
        target,
        str(cells),
        phases=phases(measured, lengths),
        connections=connections,
    )
    return section(measured, plan.phases, open_loop(plan), lengths.ramp)


def section(
    measured: float, planned: tuple[Phase, ...], result: OpenResult, ramp: float
) -> dict[str, Any]:
    """The section of the report, of a run's calls."""
    calls = OpenCalls(result)
    loads: dict[str, dict[str, Any]] = {}
    stretches: dict[str, tuple[float, float]] = {}
    start = 0.0
    for phase, cpu_seconds in zip(planned, result.cpu_seconds, strict=True):
        begin, end = start + ramp, start + phase.seconds
        stretches[phase.name] = (start, end)
        start = end
        loads[phase.name] = {
            "offered_per_second": rounded(phase.calls_per_second),
            "goodput": rounded(calls.goodput(begin, end)),
            "accepted_p99_ms": rounded(calls.p99_ms(begin, end)),
            "refusal_p99_ms": rounded(calls.p99_ms(begin, end, RESOURCE_EXHAUSTED)),
            **calls.counts(begin, end),
            "failed_by_grpc_status": calls.failures(begin, end),
            "generator_cores": rounded(cpu_seconds / phase.seconds, 2),
            "generator_lag_p99_ms": rounded(calls.lag_p99_ms(begin, end)),
        }
    normal, overloads = name_of(NORMAL_LOAD), [name_of(load) for load in OVERLOADS]
    compared = [normal, name_of(1.0), *overloads]
    peak = max(measured, *(loads[name]["goodput"] for name in compared))
    figures = overload_figures(loads, peak, normal, overloads)
    figures["recovery_seconds"] = _recovery(
        calls, stretches, loads[normal]["accepted_p99_ms"], overloads
    )
    return figures | {
        "capacity_images_per_second": rounded(measured),
        "peak_goodput": rounded(peak),
        "loads": loads,
    }


def _recovery(
    calls: OpenCalls,
    stretches: dict[str, tuple[float, float]],
    normal_p99_ms: float | None,
    overloads: list[str],
) -> float | None:
    """The longest recovery; None if one of them did not happen."""
    if normal_p99_ms is None:
        return None
    found = []
    for name in overloads:
        start, end = stretches[f"after {name}"]
        found.append(calls.recovery_seconds(start, end, normal_p99_ms))
    if any(each is None for each in found):
        return None
    return rounded(max(each for each in found if each is not None))
