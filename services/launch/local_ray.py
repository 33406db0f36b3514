"""Ray and Serve of the local stack: started, watched, ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cytosynth.stack.runtime_dir import LINK, link_files, touch_link
from services.common.private_ray.ray_node import start

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 128 * 1024 * 1024
LOGICAL_CPUS = 16
"""CPUs that Ray counts with; all processes share the machine's cores."""
START_TRIES = 3
"""A busy machine can exceed the 30 s that Ray waits."""
_ESSENTIALS = {"gcs_server", "raylet"}
_TOUCH_SECONDS = 3600.0
_STOP_SECONDS = 15.0
logger = logging.getLogger("cytosynth.stack")


class RayFailed(Exception):
    """Ray cannot go on; the message is for the stack's user."""


class LocalRay:
    """One Ray with files in the state directory and short socket paths.

    Args:
        files: folder of Ray's sessions.
        runtime_dir: short-named folder that gets a link to ``files``.
    """

    def __init__(self, files: Path, runtime_dir: Path) -> None:
        self._files, self._runtime_dir = files, runtime_dir
        self._touched = time.monotonic()
        self._session = files
        self._essentials: dict[str, psutil.Process] = {}
        self.started = False

    def start(self, end_leftovers: Callable[[], None]) -> str:
        """Starts Ray; returns the address of its metrics.

        Args:
            end_leftovers: ends the processes of a start that failed.
        """
        import ray

        self._files.mkdir(parents=True, exist_ok=True)
        link_files(self._runtime_dir, self._files)
        self.started = True
        options: dict[str, Any] = {
            "num_cpus": LOGICAL_CPUS,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "log_to_driver": False,
        }
        for tries_left in reversed(range(START_TRIES)):
            try:
                self._session = start(self._runtime_dir / LINK, **options)
                break
            except Exception:
                if not tries_left:
                    raise
                logger.warning("Ray did not start in time; trying again", exc_info=True)
                ray.shutdown()
                end_leftovers()
        children = psutil.Process().children()
        self._essentials = {one.name(): one for one in children if one.name() in _ESSENTIALS}
        if missing := _ESSENTIALS - set(self._essentials):
            raise RayFailed(f"Ray has no {' and no '.join(sorted(missing))}.")
        [node] = ray.nodes()
        return f"{LOOPBACK}:{node['MetricsExportPort']}"

    def start_serve(self) -> None:
        """Starts Serve without proxies: replicas are servers themselves."""
        from ray import serve

        serve.start(proxy_location="Disabled")

    def check(self) -> None:
        """Restores a removed link; raises RayFailed or StackError for a lost Ray."""
        if not self.started:
            return
        if lost := {name for name, process in self._essentials.items() if not _lives(process)}:
            raise RayFailed(f"Ray lost its {' and '.join(sorted(lost))}.")
        if link_files(self._runtime_dir, self._files):
            logger.warning("%s was removed; it is there again", self._runtime_dir)
        if not self._session.is_dir():
            raise RayFailed(f"Ray's files in {self._files} were removed while the stack ran.")
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            touch_link(self._runtime_dir)
            self._touched = time.monotonic()

    def stop(self) -> None:
        """Ends Ray in order; returns after some seconds also if that hangs."""
        if self.started:
            ending = threading.Thread(target=self._shut_down, daemon=True)
            ending.start()
            ending.join(_STOP_SECONDS)

    def _shut_down(self) -> None:
        import ray

        ray.shutdown()
        self.started = False


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
