"""A state directory that records a stack whose supervisor lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cytosynth.stack.state import TOKEN_VARIABLE, StackFiles, StackInfo, default_state_dir


@contextmanager
def recorded_stack(address: str) -> Iterator[StackInfo]:
    """A stack at ``address`` for the command line; the supervisor only sleeps."""
    files = StackFiles(default_state_dir())
    files.logs.mkdir(parents=True)
    host, _, port = address.rpartition(":")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        env={**os.environ, TOKEN_VARIABLE: files.token},
        stdin=subprocess.PIPE,
    )
    try:
        yield files.write(
            StackInfo(
                address=address,
                host=host,
                port=int(port),
                tls=False,
                client_certificates="none",
                pid=supervisor.pid,
                state_dir=files.state_dir,
                log_path=files.supervisor_log,
                start_time=0.0,
                phase="ready",
            )
        )
    finally:
        supervisor.kill()
        supervisor.communicate()
