"""The generator process: a plan comes in, a result goes out.

python -m benchmarks.classifier.load < plan.json
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.classifier.load.callers import CallFailed
from benchmarks.classifier.load.loops import ask, closed_loop, lean_loop, open_loop
from benchmarks.classifier.load.plans import Plan


async def make_load(plan: Plan) -> dict[str, Any]:
    """Does what the plan says; returns its result as JSON."""
    cells = [file.read_bytes() for file in sorted(Path(plan.cells).glob("*.png"))]
    if plan.mode == "ask":
        return {"probabilities": await ask(plan, cells)}
    if plan.mode == "open":
        return asdict(await open_loop(plan, cells))
    return asdict(await (lean_loop if plan.mode == "lean" else closed_loop)(plan, cells))


def run(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Runs on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def main() -> int:
    """Reads the plan, makes the load, prints the result."""
    plan = Plan.from_dict(json.load(sys.stdin))
    gc.freeze()
    try:
        json.dump(run(make_load(plan)), sys.stdout)
    except (CallFailed, OSError, TimeoutError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
