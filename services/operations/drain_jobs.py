"""Drains job runners without losing work.

    python -m services.operations.drain_jobs --reason "upgrade to 1.4"   # waits until none is run
    python -m services.operations.drain_jobs --status
    python -m services.operations.drain_jobs --resume
    python -m services.operations.drain_jobs --this-host    # only here, for good: a pod's preStop

A drain is written into the job database, so it holds for every runner on it, of whichever cluster.
Each runner saves a checkpoint and gives its job back; jobs that clients create meanwhile wait.
``--this-host`` is written into the file ``CYTOSYNTH_DRAIN_FILE``, which the runners of one host
look at: another host takes their jobs up at once, without waiting for a lease to lapse.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from services.common.database.jobs import JobDatabase
from services.trainer.config import TrainerSettings

_LOOK_SECONDS = 0.2


def wait_until_drained(database: JobDatabase, seconds: float, host: str = "") -> int:
    """Waits until no runner holds a job; returns how many still do.

    Args:
        database: The runners' database.
        seconds: Longest wait.
        host: Only runners of this host; empty: all.
    """
    deadline = time.monotonic() + seconds
    while (held := database.num_held(host)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return held


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 jobs still run, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m services.operations.drain_jobs")
    parser.add_argument("--reason", default="", help="shown by --status")
    parser.add_argument("--wait-seconds", type=float, default=120.0)
    parser.add_argument("--resume", action="store_true", help="lease jobs again")
    parser.add_argument("--status", action="store_true", help="show the drain, change nothing")
    parser.add_argument("--this-host", action="store_true", help="only the runners of this host")
    options = parser.parse_args(arguments)
    settings = TrainerSettings.load_for(parser)
    if options.this_host and not settings.drain_file:
        parser.error("--this-host: set CYTOSYNTH_DRAIN_FILE, to the runners too, and start them")
    database = JobDatabase(settings.database_url)
    try:
        if options.this_host and settings.drain_file:
            settings.drain_file.touch()
            held = wait_until_drained(database, options.wait_seconds, socket.gethostname())
            _say(f"drain of this host; {held} jobs are running")
            return 1 if held else 0
        if options.resume:
            ended = database.drains.end()
            _say("jobs are leased again" if ended else "there was no drain")
            return 0
        if not options.status:
            database.drains.start(options.reason)
            wait_until_drained(database, options.wait_seconds)
        drain, held = database.drains.current(), database.num_held()
    finally:
        database.close()
    if drain is None:
        _say(f"no drain; {held} jobs are running")
        return 0
    since = datetime.fromtimestamp(drain.create_time, UTC).isoformat(timespec="seconds")
    reason = f" ({drain.reason})" if drain.reason else ""
    _say(f"drain since {since}{reason}; {held} jobs are running")
    return 1 if held else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    raise SystemExit(main())
