"""Settings of Ray and Serve that exist as environment variables only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from services.common.serve_patches.backpressure import IN_LOOP_VARIABLE
from services.common.serve_patches.proxy_setup import LISTEN_HOST_VARIABLE, LOOPBACK_CALLBACK


def ray_environment(token_path: Path, listen_host: str, max_message_bytes: int) -> dict[str, str]:
    """The environment of a local Ray's processes; writes a new private token.

    Args:
        token_path: the file of Ray's token, which else lies in the home folder.
        listen_host: where Serve's gRPC proxy listens.
        max_message_bytes: the largest message that Serve takes or sends.
    """
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32))
    return {
        **_without_proxy(),
        LISTEN_HOST_VARIABLE: listen_host,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # SIGTERM is no failure here
        # Ray's 15 starves the services beside any other work of the machine.
        "RAY_worker_niceness": str(os.getpriority(os.PRIO_PROCESS, 0)),
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(max_message_bytes),
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(max_message_bytes),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": LOOPBACK_CALLBACK,
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        IN_LOOP_VARIABLE: "0",  # else nothing holds back a stream whose client stops reading
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
