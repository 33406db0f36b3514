"""Arithmetic of the report: percentiles, goodput, ratios, recovery, slope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.classifier.load.plans import OK, RESOURCE_EXHAUSTED, ClosedResult, OpenResult

RECOVERED_RATIO = 1.5
_WINDOW_SECONDS, _STEP_SECONDS = 1.0, 0.1


def percentile(values: Sequence[float] | np.ndarray, percent: float) -> float | None:
    """Percentile by linear interpolation; None of no values."""
    return float(np.percentile(values, percent)) if len(values) else None


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Rounds a figure of the report to significant digits."""
    return None if value is None else float(f"{value:.{digits}g}")


def ratio(part: float | None, whole: float | None) -> float | None:
    """``part / whole``; None where it is not known."""
    return None if part is None or not whole else part / whole


def point(result: ClosedResult) -> dict[str, Any]:
    """Throughput, latency and failures of a closed loop."""
    figures: dict[str, Any] = {
        "images_per_second": rounded(result.num_answered / result.seconds),
        "p50_ms": rounded(percentile(result.latencies_ms, 50)),
        "p99_ms": rounded(percentile(result.latencies_ms, 99)),
        "generator_cores": rounded(result.cpu_seconds / result.seconds, 2),
    }
    if result.num_refused:
        figures["refused_tries"] = result.num_refused
    if result.num_failed:
        figures["failed"] = result.num_failed
    return figures


class OpenCalls:
    """Calls of an open loop as arrays."""

    def __init__(self, result: OpenResult) -> None:
        self.due = np.array(result.due, float)
        self.sent = np.array(result.sent, float)
        self.latency_ms = np.array(result.latency_ms, float)
        self.status = np.array(result.status, int)

    def goodput(self, start: float, end: float) -> float:
        """Calls answered with success between two seconds of the run, per second."""
        answered = self.sent + self.latency_ms / 1e3
        return float(((self.status == OK) & (answered >= start) & (answered < end)).sum()) / (
            end - start
        )

    def p99_ms(self, start: float, end: float, status: int = OK) -> float | None:
        """p99 of the calls of a status due between two seconds."""
        return percentile(self.latency_ms[self.within(start, end) & (self.status == status)], 99)

    def counts(self, start: float, end: float) -> dict[str, int]:
        """Calls due between two seconds, by what became of them."""
        status = self.status[self.within(start, end)]
        accepted, refused = int((status == OK).sum()), int((status == RESOURCE_EXHAUSTED).sum())
        return {
            "accepted": accepted,
            "refused": refused,
            "failed": len(status) - accepted - refused,
        }

    def failures(self, start: float, end: float) -> dict[str, int]:
        """Calls neither accepted nor refused, by gRPC status; -1: no answer."""
        status = self.status[self.within(start, end)]
        failed = status[(status != OK) & (status != RESOURCE_EXHAUSTED)]
        return {str(code): int((failed == code).sum()) for code in sorted(set(failed.tolist()))}

    def lag_p99_ms(self, start: float, end: float) -> float | None:
        """How late the generator itself was, 99th percentile."""
        late = (self.sent - self.due)[self.within(start, end)] * 1e3
        return percentile(late, 99)

    def within(self, start: float, end: float) -> np.ndarray:
        """Which calls were due between two seconds."""
        chosen: np.ndarray = (self.due >= start) & (self.due < end)
        return chosen

    def recovery_seconds(self, start: float, end: float, normal_p99_ms: float) -> float | None:
        """Seconds after ``start`` until the p99 over a second is near normal.

        Args:
            start: End of the overload.
            end: End of the run.
            normal_p99_ms: p99 at 80 % of capacity.

        Returns:
            Start of the first second without a refusal or failure whose p99 is at most
            ``RECOVERED_RATIO`` times normal; None if there is none.
        """
        for step in range(round((end - start - _WINDOW_SECONDS) / _STEP_SECONDS) + 1):
            begin = start + step * _STEP_SECONDS
            counts = self.counts(begin, begin + _WINDOW_SECONDS)
            p99 = self.p99_ms(begin, begin + _WINDOW_SECONDS)
            lost = counts["refused"] + counts["failed"]
            if p99 is not None and not lost and p99 <= RECOVERED_RATIO * normal_p99_ms:
                return begin - start
        return None


def overload_figures(
    loads: dict[str, dict[str, Any]], peak: float, normal: str, overloads: Sequence[str]
) -> dict[str, Any]:
    """The four ratios of overload, of figures by load.

    Args:
        loads: ``goodput``, ``accepted_p99_ms`` and ``refusal_p99_ms`` of each load.
        peak: Largest goodput of all.
        normal: Load that is compared with.
        overloads: Loads beyond capacity; the worst of them counts.
    """
    over = [loads[name] for name in overloads]
    accepted = [each["accepted_p99_ms"] for each in over]
    refusals = [each["refusal_p99_ms"] for each in over if each["refusal_p99_ms"] is not None]
    worst = None if None in accepted else max(accepted)
    return {
        "goodput_ratio": rounded(ratio(min(each["goodput"] for each in over), peak)),
        "refusal_p99_ms": rounded(max(refusals, default=None)),
        "accepted_p99_ratio": rounded(ratio(worst, loads[normal]["accepted_p99_ms"])),
    }


def slope_per_minute(seconds: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of the least-squares line; None for fewer than two points."""
    if len(set(seconds)) < 2:
        return None
    return float(np.polyfit(np.array(seconds) / 60, np.array(values), 1)[0])
