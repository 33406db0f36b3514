"""The Ray node of this process, where public names do not suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def start(host: str, sessions: Path, **options: Any) -> None:
    """``ray.init`` of a node of its own.

    Args:
        host: Address that all of the node's processes listen on.
        sessions: Folder of the node's sockets and logs; its path must be short.
        options: Public options of ``ray.init``.
    """
    import ray

    ray.init(address="local", _node_ip_address=host, _temp_dir=str(sessions), **options)


def lost_processes() -> set[str]:
    """Names of the node's own processes that have ended, for example ``raylet``."""
    return {name for name, _ in _node().dead_processes()}


def session_folder() -> Path:
    """Folder of the node's sockets and logs."""
    return Path(_node().get_session_dir_path())


def _node() -> Any:
    import ray

    return ray._private.worker._global_node
