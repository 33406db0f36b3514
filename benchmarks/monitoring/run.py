"""``make monitoring``: checks dashboards and alerts against a real stack.

Starts a local stack, puts light load on it and Prometheus beside it; asks every expression of
every panel and every series that an alert reads; then breaks four things and waits until
Alertmanager has passed their alerts on. Writes ``monitoring.json``; exit status 1 if an
expression has no data or an alert did not come.

    python -m benchmarks.monitoring.run --out out [--previews docs/dashboards]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.monitoring.expressions import (
    FOLDER,
    Expression,
    alert_expressions,
    panel_expressions,
    recording_expressions,
)
from benchmarks.monitoring.load import Load
from benchmarks.monitoring.servers import Prometheus, Receiver, monitoring
from cytosynth.client import Client, tls_credentials
from cytosynth.stack import processes as stack_processes
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import StackFiles, StackInfo

NEEDED = ("prometheus", "prometheus-alertmanager")
CLASSIFIER, RUNNER = "ServeReplica:classifier", "ray::JobRunner"
_DATA_SECONDS = 240.0
_ALERT_SECONDS = 300.0
_PICTURE_SECONDS = 180.0
"""Seconds of load before the dashboards are plotted."""


def main() -> int:
    """Runs the checks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Checks dashboards and alerts on a live stack.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--previews", type=Path, help="plot the dashboards into this folder")
    parser.add_argument("--port", type=int, default=52200, help="of the edge")
    parser.add_argument("--prometheus-port", type=int, default=52290)
    parser.add_argument("--alertmanager-port", type=int, default=52291)
    arguments = parser.parse_args()
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        print(f"needed and not installed: {', '.join(missing)} (Debian packages of these names)")
        return 2
    work = (arguments.out / "monitoring").resolve()
    shutil.rmtree(work, ignore_errors=True)
    state_dir = work / "state"
    say("starting the stack")
    info = local_stack.up(arguments.port, tls=True, state_dir=state_dir, timeout_seconds=600)
    try:
        receiver = Receiver()
        ports = (arguments.prometheus_port, arguments.alertmanager_port)
        targets = StackFiles(state_dir).metrics_targets
        with monitoring(targets, work, receiver, ports) as prometheus, _client(info) as client:
            result = _run(prometheus, receiver, Load(client, work), info, arguments.previews)
    finally:
        _wake(info)
        local_stack.down(state_dir)
    (arguments.out / "monitoring.json").write_text(json.dumps(result, indent=2) + "\n")
    counts = {key: value for key, value in result.items() if isinstance(value, int)}
    say("; ".join(f"{key} {value}" for key, value in counts.items()))
    bad = [*result["without_data"], *result["alerts_missing"]]
    for place in bad:
        print(f"FAILED  {place}")
    return 1 if bad else 0


def _run(
    prometheus: Prometheus, receiver: Receiver, load: Load, info: StackInfo, previews: Path | None
) -> dict[str, Any]:
    start = time.time()
    say("fitting an adapter and a classifier")
    load.begin()
    panels, alerts = panel_expressions(), alert_expressions()
    say("asking every expression")
    asked = {one.place: one.text for one in panels if not one.needs_gpu}
    asked |= {one.place: one.text for one in recording_expressions()}
    asked |= {
        f"{one.place}: {selector}": f"last_over_time({selector}[10m])"
        for one in alerts
        for selector in one.selectors
        if not Expression("", selector).needs_gpu
    }
    empty = _wait_for_data(prometheus, asked)
    if previews:
        time.sleep(_PICTURE_SECONDS)
    fired_before = prometheus.firing()
    for board in sorted((FOLDER / "grafana").glob("*.json")) if previews else ():
        from benchmarks.monitoring.preview import plot  # matplotlib takes its time

        plot(board, prometheus, start, time.time(), previews / f"{board.stem}.png")
    say("breaking a runner, the classifier and the edge")
    wanted = _break_parts(load, info, receiver)
    load.end()
    came = {name: receiver.came[name] for name in wanted if name in receiver.came}
    return {
        "panels": len({one.place.rsplit(" (", 1)[0] for one in panels}),
        "panel_expressions": len(panels),
        "alerts": len(alerts),
        "alert_selectors": sum(len(one.selectors) for one in alerts),
        "expressions_asked": len(asked),
        "expressions_with_data": len(asked) - len(empty),
        "targets": prometheus.targets_up(),
        "calls": load.num_calls,
        "calls_failed": load.num_failed,
        "alerts_fired_on_purpose": len(came),
        "without_data": empty,
        "not_exported_on_this_machine": sorted(
            {
                selector
                for one in [*panels, *alerts]
                for selector in one.selectors
                if Expression("", selector).needs_gpu
            }
        ),
        "alerts_before_breaking": sorted(fired_before),
        "alerts_received": {
            name: {"receiver": came[name][0], "seconds": round(came[name][1] - began, 1)}
            for name, began in wanted.items()
            if name in came
        },
        "alerts_missing": [f"alert {name} did not come" for name in wanted if name not in came],
        "seconds": round(time.time() - start, 1),
    }


def _wait_for_data(prometheus: Prometheus, asked: dict[str, str]) -> list[str]:
    """Places whose expression has no data after minutes under load."""
    left, deadline = list(asked), time.monotonic() + _DATA_SECONDS
    while left and time.monotonic() < deadline:
        left = [place for place in left if not prometheus.query(asked[place])]
        if left:
            time.sleep(5)
    return left


def _break_parts(load: Load, info: StackInfo, receiver: Receiver) -> dict[str, float]:
    """Breaks one thing after the other; returns the times by alert."""
    wanted = {}
    load.start_long_job()
    runner = _wait_for(lambda: _processes(info, RUNNER))[0]
    time.sleep(10)  # until it is at work
    runner.suspend()
    wanted["JobSilent"] = time.time()
    killed = time.time()
    for alert in ("NoReplicas", "AvailabilityBurnsFast"):
        wanted[alert] = killed
        until = time.monotonic() + _ALERT_SECONDS
        while time.monotonic() < until and alert not in receiver.came:
            for process in _processes(info, CLASSIFIER):
                process.kill()
            time.sleep(1)
    _wait_for(lambda: "JobSilent" in receiver.came)
    runner.resume()
    for edge in _processes(info, "envoy"):
        edge.suspend()
    wanted["ScrapeFails"] = time.time()
    _wait_for(lambda: "ScrapeFails" in receiver.came)
    _wake(info)
    return wanted


def _wait_for(condition: Callable[[], Any]) -> Any:
    """The condition's value once it holds, or after a few minutes."""
    deadline = time.monotonic() + _ALERT_SECONDS
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(1)
    return value


def _processes(info: StackInfo, word: str) -> list[psutil.Process]:
    files = StackFiles(info.state_dir)
    ours = stack_processes.stack_processes(files.token, info.pid, files.root)
    found = []
    for one in ours:
        try:
            if word in " ".join(one.cmdline()):
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def _wake(info: StackInfo) -> None:
    """Wakes stopped processes, which could not be ended in order."""
    for one in _processes(info, ""):
        if one.is_running() and one.status() == psutil.STATUS_STOPPED:
            os.kill(one.pid, signal.SIGCONT)


def _client(info: StackInfo) -> Client:
    assert info.ca_path is not None
    credentials = tls_credentials(info.ca_path, info.client_certificate_path, info.client_key_path)
    return Client(info.address, credentials=credentials, timeout_seconds=60)


_began = time.monotonic()


def say(words: str) -> None:
    """One line with the seconds since the start."""
    print(f"{time.monotonic() - _began:6.0f} s  {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
