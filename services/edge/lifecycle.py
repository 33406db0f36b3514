"""An edge pod's probe and drain: `python -m services.edge.lifecycle ready | drain`.

Envoy's admin port is on loopback, where the kubelet cannot reach it; probe and drain run in the
pod.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import time

ACTIVE = "downstream_rq_active"
LISTENERS = ("edge", "internal")


def is_ready(admin_port: int) -> bool:
    """Whether Envoy has its configuration and takes calls."""
    try:
        status, _ = _ask(admin_port, "GET", "/ready")
    except OSError:
        return False
    return status == 200


def drain(admin_port: int, notice_seconds: float, longest_seconds: float) -> int:
    """Sends clients elsewhere and waits until their calls have ended.

    Args:
        admin_port: Port of Envoy's admin interface, on loopback.
        notice_seconds: until every node has learned that this pod is no endpoint any more.
        longest_seconds: what still runs then is cut; clients resume at the next image.

    Returns:
        How many calls are still running.
    """
    ends = time.monotonic() + longest_seconds
    time.sleep(notice_seconds)
    _ask(admin_port, "POST", "/drain_listeners?graceful&skip_exit")
    while (num_active := active_calls(admin_port)) and time.monotonic() < ends:
        time.sleep(0.5)
    return num_active


def active_calls(admin_port: int) -> int:
    """Calls and streams that run through the edge now."""
    _, text = _ask(admin_port, "GET", f"/stats?filter={ACTIVE}")
    values = dict(line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
    return sum(int(values.get(f"http.{name}.{ACTIVE}", "0")) for name in LISTENERS)


def _ask(port: int, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def main() -> int:
    """Exit status: 0 if the edge is ready, or once drained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["ready", "drain"])
    parser.add_argument("--admin-port", type=int, default=9901)
    parser.add_argument("--notice-seconds", type=float, default=5.0)
    parser.add_argument("--longest-seconds", type=float, default=580.0)
    arguments = parser.parse_args()
    if arguments.command == "ready":
        return 0 if is_ready(arguments.admin_port) else 1
    drain(arguments.admin_port, arguments.notice_seconds, arguments.longest_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
