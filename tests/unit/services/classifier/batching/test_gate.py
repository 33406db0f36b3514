"""Bursts are let through, overload is not."""

from __future__ import annotations

from services.classifier.batching.gate import BURST_SECONDS, Gate

TARGET = 0.1
STEP = 0.01


def refused(gate: Gate, wait: float, start: float, seconds: float) -> list[bool]:
    """Asks every hundredth of a second with the same wait."""
    return [
        gate.refuses(wait, TARGET, start + number * STEP) for number in range(round(seconds / STEP))
    ]


def test_a_burst_passes_and_overload_does_not() -> None:
    gate = Gate(0.0)
    answers = refused(gate, 0.15, 0.0, 2 * BURST_SECONDS)
    assert not any(answers[: round(BURST_SECONDS / STEP)]) and all(answers[-40:])


def test_a_very_long_queue_is_no_burst() -> None:
    assert Gate(0.0).refuses(0.5, TARGET, 0.0)


def test_waits_at_the_target_are_no_overload() -> None:
    assert not any(refused(Gate(0.0), TARGET, 0.0, 5.0))


def test_overload_lasts_until_the_queue_is_short() -> None:
    gate = Gate(0.0)
    refused(gate, 0.15, 0.0, 1.0)
    assert not gate.refuses(0.09, TARGET, 1.0)
    assert gate.refuses(0.11, TARGET, 1.01)
    assert not gate.refuses(0.04, TARGET, 1.02)
    assert not gate.refuses(0.11, TARGET, 1.03)


def test_overload_is_forgotten_when_nobody_comes() -> None:
    gate = Gate(0.0)
    refused(gate, 0.15, 0.0, 1.0)
    assert gate.is_shut(1.1) and not gate.is_shut(9.0)
    assert not gate.refuses(0.15, TARGET, 9.0)
