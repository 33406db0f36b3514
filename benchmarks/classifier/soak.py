"""Minutes at 80 % load while an alias is switched."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.classifier.figures import OpenCalls, rounded, slope_per_minute
from benchmarks.classifier.load.plans import OK, Phase, Plan
from benchmarks.classifier.load.process import open_loop
from benchmarks.classifier.servers.our_stack import OurStack
from cytosynth.client import Client

ALIAS = "aliases/bench"
SWITCH_SECONDS, SAMPLE_SECONDS = 30.0, 2.0
_SETTLING_SHARE = 0.2
"""Share of the run after whose end memory must be flat: caches fill before."""


def soak(
    stack: OurStack,
    versions: tuple[str, str],
    cells: Path,
    calls_per_second: float,
    seconds: float,
    switch_seconds: float = SWITCH_SECONDS,
) -> dict[str, Any]:
    """Offers the load, switches the alias, samples memory."""
    plan = Plan(
        "open",
        stack.target(ALIAS),
        str(cells),
        phases=(Phase("soak", calls_per_second, seconds),),
    )
    times: list[float] = []
    sizes: list[float] = []
    switches = 0
    with Client(stack.address) as client, ThreadPoolExecutor(1) as pool:
        client.set_alias(ALIAS, versions[0])
        load = pool.submit(open_loop, plan)
        begin = time.monotonic()
        while not load.done():
            now = time.monotonic() - begin
            if now >= (switches + 1) * switch_seconds and now < seconds:
                switches += 1
                client.set_alias(ALIAS, versions[switches % 2])
            times.append(now)
            sizes.append(stack.replica_bytes() / 1e6)
            time.sleep(SAMPLE_SECONDS)
        result = load.result()
    calls = OpenCalls(result)
    settled = [n for n, at in enumerate(times) if at >= _SETTLING_SHARE * seconds]
    slope = slope_per_minute([times[n] for n in settled], [sizes[n] for n in settled])
    failed = Counter(str(status) for status in result.status if status != OK)
    return {
        "minutes": rounded(seconds / 60),
        "calls_per_second": rounded(calls_per_second),
        "calls": len(result.status),
        "failed": sum(failed.values()),
        "failed_by_grpc_status": dict(failed),
        "alias_switches": switches,
        "p99_ms": rounded(calls.p99_ms(0.0, seconds)),
        "replica_mb_first": rounded(sizes[settled[0]] if settled else None),
        "replica_mb_last": rounded(sizes[-1]),
        "replica_mb_per_minute": rounded(slope),
        "generator_cores": rounded(sum(result.cpu_seconds) / seconds, 2),
    }
