"""Exclusive locks on open files, on every platform."""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

_POLL_SECONDS = 0.1
# Windows locks bytes, which others cannot read meanwhile: one behind the end of every file here.
_BYTE_BEHIND_THE_END = 1 << 40


def lock(file: IO[Any], *, wait: bool = True) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: Opened for writing.
        wait: Wait until another process releases it, instead of returning False at once.
    """
    while not _try_lock(file):
        if not wait:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _try_lock(file: IO[Any]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        number = file.fileno()
        position = os.lseek(number, 0, os.SEEK_CUR)
        os.lseek(number, _BYTE_BEHIND_THE_END, os.SEEK_SET)
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(number, position, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
