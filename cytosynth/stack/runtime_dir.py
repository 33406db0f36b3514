"""A folder with a path short enough for sockets.

The folder holds one link, ``ray``, to the stack's files in the state directory: a Unix socket's
path may have about a hundred characters, and a state directory's may be longer.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from cytosynth.stack.state import StackError

LINK = "ray"
_PREFIX = "cyto-"
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
_SESSION = "session_2026-12-01_09-00-00_123456_1234567/sockets/plasma_store"
LONGEST_PARENT = _LONGEST_SOCKET - len(f"/{_PREFIX}12345678/{LINK}/{_SESSION}")
# Ray builds command lines from the path.
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")


def make_runtime_dir(root: Path) -> Path:
    """A new private folder: below ``root`` if short enough, else temporary.

    Raises:
        StackError: no folder is short enough and may be written.
    """
    named = os.environ.get("TMPDIR", "")
    # The state directory first: systems clean temporary folders only.
    for parent in (root, Path(named or "/tmp"), Path("/tmp"), Path("/var/tmp")):
        if len(str(parent)) > LONGEST_PARENT or not _PLAIN.fullmatch(str(parent)):
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError:
            continue
    raise StackError(
        f"No folder with a path of at most {LONGEST_PARENT} characters can be written "
        f"for sockets (TMPDIR is {named or 'not set'}); set TMPDIR to such a folder."
    )


def is_runtime_dir(path: Path) -> bool:
    """Whether ``make_runtime_dir`` made a folder of this name."""
    return path.name.startswith(_PREFIX)


def link_files(runtime_dir: Path, target: Path) -> bool:
    """Links to ``target``; False if the link was there.

    A runtime folder that was removed is made again.

    Raises:
        StackError: the link cannot be made.
    """
    link = runtime_dir / LINK
    if link.is_symlink():
        return False
    try:
        runtime_dir.mkdir(mode=0o700, exist_ok=True)
        if runtime_dir.stat().st_uid != os.getuid():
            raise StackError(f"{runtime_dir} belongs to somebody else; stop and start the stack.")
        link.symlink_to(target)
    except OSError as error:
        raise StackError(f"{link} cannot be made: {error.strerror}.") from error
    return True


def touch_link(runtime_dir: Path) -> None:
    """Makes folder and link look used to what removes old temporary files."""
    for path in (runtime_dir / LINK, runtime_dir):
        os.utime(path, follow_symlinks=False)
