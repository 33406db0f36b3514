"""What only private names of Ray tell of the node that this process started."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def lost_processes() -> set[str]:
    """Names of the node's own processes that have ended, for example ``raylet``."""
    return {name for name, _ in _node().dead_processes()}


def session_folder() -> Path:
    """Folder of the node's sockets and logs."""
    return Path(_node().get_session_dir_path())


def _node() -> Any:
    import ray

    return ray._private.worker._global_node
