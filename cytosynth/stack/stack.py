"""Starts, shows and stops one local Cytosynth.

`up` starts the supervisor (`python -m services.launch.local_stack`) as a process of its own. Then
`up` waits until a real call to every service has succeeded through the edge. Everything the stack
writes lies under the state directory. Every process of the stack carries the directory's token,
so that `status` and `down` find all of them, also after the supervisor was killed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cytosynth.file_lock import lock
from cytosynth.stack import processes as stack_processes
from cytosynth.stack.addresses import check_port, free_port, refuse_open_plaintext
from cytosynth.stack.certificate_files import DEFAULT_HOSTS, DEFAULT_TENANT, CertificateSet
from cytosynth.stack.probe import ServiceStatus, probe_services
from cytosynth.stack.runtime_dir import is_runtime_dir, make_runtime_dir
from cytosynth.stack.state import (
    TOKEN_VARIABLE,
    AlreadyRunning,
    ClientCertificates,
    NoStack,
    PortTaken,
    ServicesMissing,
    StackError,
    StackFiles,
    StackInfo,
    StartupFailed,
    default_state_dir,
)

__all__ = [
    "AlreadyRunning",
    "ClientCertificates",
    "NoStack",
    "PortTaken",
    "ServiceStatus",
    "ServicesMissing",
    "StackError",
    "StackInfo",
    "StackStatus",
    "StartupFailed",
    "down",
    "status",
    "up",
]

DEFAULT_PORT = 50051
ProgressCallback = Callable[[str, float], None]
"""Called with the stack's activity and the seconds since `up` began."""
_LOG_TAIL_LINES = 15
# A job's checkpoint (20 s), the end of Ray (15 s), and some for a busy machine.
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class StackStatus:
    """The state of a stack and of its services.

    `state`: stopped (nothing is left), starting, running (all services answer), degraded (up, but
    a service does not answer), broken (the supervisor died and left something: run `down`).
    """

    state: Literal["stopped", "starting", "running", "degraded", "broken"]
    detail: str
    info: StackInfo | None
    services: tuple[ServiceStatus, ...]
    num_processes: int
    memory_bytes: int
    """Proportional set size of all processes of the stack together."""


def up(
    port: int = DEFAULT_PORT,
    *,
    tls: bool = False,
    host: str = "127.0.0.1",
    client_certificates: ClientCertificates | None = None,
    certs_dir: Path | None = None,
    state_dir: Path | None = None,
    timeout_seconds: float = 180.0,
    on_progress: ProgressCallback | None = None,
    apps: str = "services.launch.local_stack:build_apps",
) -> StackInfo:
    """Starts the stack; returns when every service answers through the edge.

    Args:
        port: where the edge listens; 0 takes a free one.
        tls: serve TLS with the certificates in `certs_dir`, which are made there if missing.
        host: address to listen on; any but loopback needs `tls`.
        client_certificates: with `tls`, whether a client must show one (default "optional").
            Without one a client is tenant "local".
        certs_dir: default `<state_dir>/certs`.
        state_dir: default `$CYTOSYNTH_STATE_DIR`, else `.cytosynth` in the working directory.
        timeout_seconds: when it is not ready after this long, everything is stopped again.
        apps: import path of the function that builds the Serve applications.

    Raises:
        AlreadyRunning, PortTaken, ServicesMissing, StartupFailed, StackError.
        cytosynth.stack.certificate_files.CertificateError: the certificates cannot be made.
    """
    check_installed()
    began = time.monotonic()
    files = StackFiles(state_dir or default_state_dir())
    _refuse_undecodable(files.state_dir)
    files.logs.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(files):
        info = files.read()
        if info and stack_processes.alive(info.pid, files.token):
            raise AlreadyRunning(info)
        if client_certificates not in (None, "none") and not tls:
            raise StackError("Client certificates need TLS: add --tls.")
        refuse_open_plaintext(host, tls)
        _clean_up(files, info)
        port = free_port(host) if port == 0 else port
        check_port(host, port)
        certificates = _certificates(certs_dir or files.certs, host) if tls else None
        wanted = client_certificates or ("optional" if tls else "none")
        supervisor, info = _start_supervisor(files, host, port, certificates, wanted, apps)
    return _wait_until_ready(files, supervisor, info, began, timeout_seconds, on_progress)


def check_installed() -> None:
    """Checks that this installation holds the services.

    Raises:
        ServicesMissing: It is the client alone.
    """
    try:
        found = all(importlib.util.find_spec(name) for name in ("services.launch", "ray"))
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ServicesMissing


def down(state_dir: Path | None = None, timeout_seconds: float = _STOP_SECONDS) -> bool:
    """Stops every process of the stack; False if none was there.

    Args:
        state_dir: as for `up`.
        timeout_seconds: how long the supervisor may take to stop in order before all processes
            of the stack are killed.
    """
    files = StackFiles(state_dir or default_state_dir())
    stopped = _stop(files, files.read(), timeout_seconds)
    files.failure.unlink(missing_ok=True)
    return stopped


def _stop(files: StackFiles, info: StackInfo | None, timeout_seconds: float) -> bool:
    if info and stack_processes.alive(info.pid, files.token):
        os.kill(info.pid, signal.SIGTERM)
        stack_processes.wait_until_gone(info.pid, timeout_seconds)
        _clean_up(files, info)
        return True
    return _clean_up(files, info)


def status(state_dir: Path | None = None) -> StackStatus:
    """The processes that exist and the services that answer now."""
    files = StackFiles(state_dir or default_state_dir())
    info = files.read()
    processes = stack_processes.stack_processes(files.token, info.pid if info else None, files.root)
    memory = stack_processes.memory_bytes(processes)
    services: tuple[ServiceStatus, ...] = ()
    if info is None or not stack_processes.alive(info.pid, files.token):
        if not processes:
            failure = files.read_failure()
            detail = f"Not running; it ended by itself: {failure}" if failure else "Not running."
            return StackStatus("stopped", detail, None, (), 0, 0)
        state: Literal["starting", "running", "degraded", "broken"] = "broken"
        detail = (
            f"The supervisor is gone but {len(processes)} of its processes are left. "
            "Run 'cytosynth down', then 'cytosynth up'."
        )
    elif info.phase != "ready":
        state, detail = "starting", info.activity
    else:
        services = probe_services(info)
        lost = [service.name for service in services if not service.ready]
        state = "degraded" if lost else "running"
        detail = f"Not answering: {', '.join(lost)}." if lost else "All services answer."
    return StackStatus(state, detail, info, services, len(processes), memory)


@contextmanager
def _one_at_a_time(files: StackFiles) -> Iterator[None]:
    """Keeps two `up` on the same state directory from starting two stacks."""
    with files.lock.open("w") as file:
        lock(file)
        yield


def _certificates(directory: Path, host: str) -> CertificateSet:
    from cytosynth.stack.certs import make_certificates  # cryptography is no client's need

    named = () if host in ("0.0.0.0", "::") else (host,)
    return make_certificates(directory, hosts=dict.fromkeys((*DEFAULT_HOSTS, *named)))


def _start_supervisor(
    files: StackFiles,
    host: str,
    port: int,
    certificates: CertificateSet | None,
    client_certificates: ClientCertificates,
    apps: str,
) -> tuple[subprocess.Popen[bytes], StackInfo]:
    for log in (files.supervisor_log, files.envoy_log, files.access_log):
        if log.exists():
            log.replace(log.with_suffix(f"{log.suffix}.1"))
    shutil.rmtree(files.ray, ignore_errors=True)
    files.failure.unlink(missing_ok=True)
    runtime_dir = make_runtime_dir(files.root)
    environment = {
        **os.environ,
        "CYTOSYNTH_STATE_DIR": str(files.state_dir),
        TOKEN_VARIABLE: files.token,
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules halve the start
    with files.supervisor_log.open("ab") as output:
        supervisor = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services.launch.local_stack",
                str(files.state_dir),
                "--apps",
                apps,
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    dialled = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    client = certificates.client(DEFAULT_TENANT) if certificates else None
    info = StackInfo(
        address=f"[{dialled}]:{port}" if ":" in dialled else f"{dialled}:{port}",
        host=host,
        port=port,
        tls=certificates is not None,
        client_certificates=client_certificates,
        pid=supervisor.pid,
        state_dir=files.state_dir,
        log_path=files.supervisor_log,
        start_time=time.time(),
        activity="starting",
        runtime_dir=runtime_dir,
        ca_path=certificates.ca if certificates else None,
        client_certificate_path=client.certificate if client else None,
        client_key_path=client.key if client else None,
    )
    files.write(info)
    assert supervisor.stdin is not None
    supervisor.stdin.close()  # the supervisor waits for this before it reads the state
    return supervisor, info


def _wait_until_ready(
    files: StackFiles,
    supervisor: subprocess.Popen[bytes],
    info: StackInfo,
    began: float,
    timeout_seconds: float,
    on_progress: ProgressCallback | None,
) -> StackInfo:
    try:
        while True:
            seconds = time.monotonic() - began
            current = files.read()
            if current is None or supervisor.poll() is not None:
                problem = files.read_failure() or _last_words(info.log_path)
                raise StartupFailed(f"The stack did not start: {problem}", info.log_path)
            if on_progress:
                on_progress(current.activity, seconds)
            if current.phase == "ready":
                return current
            if seconds > timeout_seconds:
                raise StartupFailed(
                    f"Not ready after {timeout_seconds:.0f} s (last: {current.activity}).",
                    info.log_path,
                )
            time.sleep(0.2)
    except BaseException:
        _stop(files, info, _STOP_SECONDS)
        raise


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def _refuse_undecodable(folder: Path) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        shown = str(folder).encode("utf-8", "replace").decode()
        raise StackError(
            f"The name of {shown} is not UTF-8, which the edge needs; choose another folder with "
            "--state-dir or CYTOSYNTH_STATE_DIR."
        ) from None


def _clean_up(files: StackFiles, info: StackInfo | None) -> bool:
    """Ends a stack's processes and removes its files; False without any."""
    found = False
    for _ in range(3):  # a process may be starting another one just now
        left = stack_processes.stack_processes(files.token, info.pid if info else None, files.root)
        if not left:
            break
        found = True
        stack_processes.end(left)
    if info and info.runtime_dir and is_runtime_dir(info.runtime_dir):
        shutil.rmtree(info.runtime_dir, ignore_errors=True)
    files.state.unlink(missing_ok=True)
    return found
