"""A Ray node of this process, where public names do not suffice.

``_temp_dir`` of ``ray.init`` is the one private name of Ray that this project uses.  ``ray.init``
refuses a keyword that it does not know, and ``start`` checks what this one did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class RayNameLost(Exception):
    """A private name of Ray no longer does what is needed."""


def start(sessions: Path, **options: Any) -> Path:
    """``ray.init`` of a node of its own.

    Args:
        sessions: Folder of the node's sockets and logs; its path must be short.
        options: Public options of ``ray.init``.

    Returns:
        Folder of this session, below ``sessions``.

    Raises:
        RayNameLost: If the node's files lie elsewhere.
    """
    import ray

    ray.init(address="local", _temp_dir=str(sessions), **options)
    latest = sessions / "session_latest"
    if not latest.is_dir():
        raise RayNameLost(f"Ray keeps no session in {sessions}")
    return sessions / latest.readlink().name
