"""A Ray pod's preStop: `python -m services.operations.drain_pod`.

The pod has left its Service by then. The series of its fronts say which calls still run in it,
those of Ray what its samplers still do.
"""

from __future__ import annotations

import argparse
import http.client
import re
import sys
import time
from collections.abc import Iterable

SERIES = re.compile(
    r"^(?:cytosynth_calls_in_progress|ray_serve_replica_processing_queries)(?:\{[^}]*\})? (\S+)",
    re.M,
)


def num_running(metrics: str) -> int:
    """Running calls and streams of this pod, from Prometheus's text."""
    return round(sum(float(value) for value in SERIES.findall(metrics)))


def drain(ports: Iterable[int], notice_seconds: float, longest_seconds: float) -> int:
    """Waits for running calls; returns how many are left.

    Args:
        ports: Ports of Ray's and of our own series on this pod.
        notice_seconds: until callers know; longer than the 10 s between two of Ray's reports.
        longest_seconds: what still runs then is lost; callers resume or ask again.
    """
    ends = time.monotonic() + longest_seconds
    time.sleep(notice_seconds)
    while (left := sum(num_running(_metrics(port)) for port in ports)) and time.monotonic() < ends:
        time.sleep(2.0)
    return left


def _metrics(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except OSError:  # Ray, or our processes, have ended: nothing runs
        return ""
    finally:
        connection.close()


def main() -> int:
    """Waits; always 0, as the pod ends anyway."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", type=int, nargs="+", default=[8080, 8081])
    parser.add_argument("--notice-seconds", type=float, default=15.0)
    parser.add_argument("--longest-seconds", type=float, default=580.0)
    arguments = parser.parse_args()
    drain(arguments.ports, arguments.notice_seconds, arguments.longest_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
