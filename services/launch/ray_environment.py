"""Settings of Ray and Serve that exist as environment variables only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def ray_environment(token_path: Path) -> dict[str, str]:
    """The environment of a local Ray's processes; writes a new private token.

    Args:
        token_path: the file of Ray's token, which else lies in the home folder.
    """
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32))
    return {
        **_without_proxy(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # SIGTERM is no failure here
        # Ray's 15 starves the services beside any other work of the machine.
        "RAY_worker_niceness": str(os.getpriority(os.PRIO_PROCESS, 0)),
        # One event loop a process: grpc.aio polls for one only.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        "RAY_enable_export_api_write": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_ARENA_MAX": "2",
    }


def _without_proxy() -> dict[str, str]:
    """Variables that keep calls on this machine from the environment's proxy."""
    named = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    hosts = ",".join(dict.fromkeys([*filter(None, named), "127.0.0.1", "localhost", "::1"]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}
