"""A small Ray Serve whose own ports and folders last one test."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from services.common.rpc.server import PORT_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[3]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_serve(app: Any, name: str) -> Iterator[str]:
    """Run one Serve application; gives the address of its gRPC port."""
    port = free_port()
    os.environ.update(
        {
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "disabled",
            # Ray's defaults starve on a busy machine: workers at niceness 15, 10 s for agents.
            "RAY_worker_niceness": str(os.getpriority(os.PRIO_PROCESS, 0)),
            "RAY_agent_register_timeout_ms": "120000",
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            PORT_VARIABLE: str(port),
        }
    )
    import ray
    from ray import serve

    folder = tempfile.mkdtemp(prefix="ct-", dir="/tmp")
    _start_ray(folder)
    try:
        serve.start(proxy_location="Disabled")
        serve.run(app, name=name, route_prefix=None)
        yield f"127.0.0.1:{port}"
    finally:
        del os.environ[PORT_VARIABLE]  # settings refuse variables that nothing reads
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start_ray(folder: str) -> None:
    """Start Ray, again if it gave up its node.

    Ray waits 30 s for its node and no longer.
    """
    import ray

    for tries_left in (2, 1, 0):
        try:
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                object_store_memory=80 * 1024 * 1024,
                log_to_driver=False,
                _temp_dir=folder,
            )
            return
        except Exception:
            ray.shutdown()
            _kill_leftovers(folder)
            if not tries_left:
                raise


def _kill_leftovers(folder: str) -> None:
    for process in psutil.Process().children(recursive=True):
        try:
            if any(folder in part for part in process.cmdline()):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def replica_processes(deployment: str) -> list[psutil.Process]:
    """Processes of a deployment's replicas that this test's Ray started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and f":{deployment}" in process.cmdline()[0]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
