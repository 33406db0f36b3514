"""Stops the work on all jobs for a while, without losing any of it.

    python -m services.trainer.drain --reason "upgrade to 1.4"   # waits until no job is worked on
    python -m services.trainer.drain --status
    python -m services.trainer.drain --resume

It is written into the job database, so it holds for every runner on it, of whichever cluster. Each
saves a checkpoint and gives its job back; jobs that clients create meanwhile wait.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from services.common.job_database import JobDatabase
from services.common.settings import CommonSettings

_LOOK_SECONDS = 0.2


def wait_until_drained(database: JobDatabase, seconds: float) -> int:
    """Waits until no runner works on a job; gives how many still do after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (held := database.num_held()) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return held


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if what was asked is so, 1 if jobs are still worked on."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer.drain")
    parser.add_argument("--reason", default="", help="written down for whoever asks")
    parser.add_argument("--wait-seconds", type=float, default=120.0)
    parser.add_argument("--resume", action="store_true", help="take jobs up again")
    parser.add_argument("--status", action="store_true", help="say how it is, change nothing")
    options = parser.parse_args(arguments)
    database = JobDatabase(CommonSettings.load().database_url)
    try:
        if options.resume:
            ended = database.end_drain()
            _say("jobs are taken up again" if ended else "there was no drain")
            return 0
        if not options.status:
            database.start_drain(options.reason)
            wait_until_drained(database, options.wait_seconds)
        drain, held = database.drain(), database.num_held()
    finally:
        database.close()
    if drain is None:
        _say(f"no drain; {held} jobs are worked on")
        return 0
    since = datetime.fromtimestamp(drain.create_time, UTC).isoformat(timespec="seconds")
    reason = f" ({drain.reason})" if drain.reason else ""
    _say(f"drain since {since}{reason}; {held} jobs are worked on")
    return 1 if held else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    raise SystemExit(main())
