"""The processes of a local stack: find them, weigh them, end them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from cytosynth.stack.state import TOKEN_VARIABLE, NoStack, StackFiles, StackInfo


def stack_processes(token: str, session_id: int | None, files: Path) -> list[psutil.Process]:
    """Every living process of the stack, orphans included.

    Args:
        token: the value of `TOKEN_VARIABLE` that the stack's processes inherit.
        session_id: the supervisor's pid, which is the session of all its descendants. Some of
            Ray's agents overwrite their environment with a title; they are known by this session
            and by the files that they hold open.
        files: the folder in which the stack's processes hold files open.
    """
    found = []
    for process in psutil.process_iter():
        if process.pid in (0, os.getpid()):
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(TOKEN_VARIABLE) == token or (
                session_id is not None
                and os.getsid(process.pid) == session_id
                and any(Path(file.path).is_relative_to(files) for file in process.open_files())
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Proportional set size of all together; shared pages count once.

    Where the system does not tell it (macOS), the unique set size.
    """
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except (psutil.Error, OSError):
            continue
        total += getattr(memory, "pss", 0) or memory.uss
    return total


def end(processes: list[psutil.Process], grace_seconds: float = 5.0) -> None:
    """Asks the processes to end, and kills the rest after `grace_seconds`."""
    for process in processes:
        try:
            process.terminate()
        except psutil.Error:
            continue
    _, stubborn = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in stubborn:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(stubborn, timeout=5.0)


def alive(pid: int, token: str) -> bool:
    """Whether `pid` is a living process of the stack with this token."""
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.environ().get(TOKEN_VARIABLE) == token
        )
    except psutil.Error:
        return False


def running_stack(files: StackFiles) -> StackInfo:
    """The stack of this state directory, while its supervisor lives.

    A record alone is not enough: somebody else may listen on the port of a stack that was lost.

    Raises:
        NoStack: none was recorded, or its supervisor is gone.
    """
    info = files.read()
    if info is None or not alive(info.pid, files.token):
        raise NoStack(files.state_dir)
    return info


def wait_until_gone(pid: int, timeout_seconds: float) -> bool:
    """Waits for the end of any process; False after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def listener_of(port: int) -> str:
    """A TCP port's listener as `name (pid n)`; empty if unknown."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
