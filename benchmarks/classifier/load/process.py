"""Starts the generator process and reads its result."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.classifier.load.plans import ClosedResult, OpenResult, Plan

_SPARE_SECONDS = 60.0


class LoadFailed(Exception):
    """The generator ended without a result; says why."""


def ask(plan: Plan) -> list[float]:
    """Probabilities of the first cell; raises LoadFailed."""
    found: list[float] = _run(plan, plan.timeout_seconds)["probabilities"]
    return found


def closed(plan: Plan) -> ClosedResult:
    """Result of a closed loop; raises LoadFailed."""
    seconds = plan.warmup_seconds + plan.seconds + 2 * plan.timeout_seconds
    return ClosedResult(**_run(plan, seconds))


def open_loop(plan: Plan) -> OpenResult:
    """Result of an open loop; raises LoadFailed."""
    seconds = sum(phase.seconds for phase in plan.phases)
    return OpenResult(**_run(plan, seconds + plan.timeout_seconds))


def _run(plan: Plan, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.classifier.load"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(plan.to_dict()),
            capture_output=True,
            text=True,
            timeout=seconds + _SPARE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"the load generator did not end within {seconds:.0f} s") from None
    if done.returncode:
        raise LoadFailed(done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
