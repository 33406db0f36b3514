"""Files, addresses and errors of one local stack."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

ClientCertificates = Literal["none", "optional", "required"]
Phase = Literal["starting", "ready", "stopping"]

TOKEN_VARIABLE = "CYTOSYNTH_STACK_TOKEN"
"""Environment variable by which every process of a stack is known."""


def default_state_dir() -> Path:
    """`$CYTOSYNTH_STATE_DIR`, else `.cytosynth` in the working directory."""
    return Path(os.environ.get("CYTOSYNTH_STATE_DIR") or Path.cwd() / ".cytosynth").resolve()


@dataclass(frozen=True)
class StackInfo:
    """Where a stack is. The certificate paths are None in plaintext."""

    address: str
    """What a client dials, for example `127.0.0.1:50051`."""
    host: str
    port: int
    tls: bool
    client_certificates: ClientCertificates
    pid: int
    """The supervisor; also the session id of every process of the stack."""
    state_dir: Path
    log_path: Path
    start_time: float
    """Seconds since 1970."""
    phase: Phase = "starting"
    activity: str = ""
    """Its current activity, in a few words."""
    runtime_dir: Path | None = None
    """Short-named folder for sockets, removed when the stack stops."""
    ca_path: Path | None = None
    client_certificate_path: Path | None = None
    client_key_path: Path | None = None
    edge_metrics_address: str = ""
    """Prometheus scrapes the edge here, `/stats/prometheus`; empty until it listens."""
    ray_metrics_address: str = ""
    """Prometheus scrapes Ray and the samplers here, `/metrics`; empty until it listens."""
    services_metrics_address: str = ""
    """Prometheus scrapes all other series of ours here, `/metrics`; empty until it listens."""


class StackFiles:
    """The files of the stack under one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir.resolve()
        self.root = self.state_dir / "stack"
        self.logs = self.root / "logs"
        self.supervisor_log = self.logs / "supervisor.log"
        self.envoy_log = self.logs / "envoy.log"
        self.access_log = self.logs / "edge-access.jsonl"
        self.envoy_config = self.root / "envoy.yaml"
        self.ray = self.root / "ray"
        self.ray_token = self.root / "ray-token"
        self.state = self.root / "stack.json"
        self.lock = self.root / "lock"
        self.failure = self.root / "failure"
        self.certs = self.state_dir / "certs"
        self.metrics_targets = self.root / "metrics"
        self.series = self.root / "series"

    @property
    def token(self) -> str:
        """Names this state directory; not a secret."""
        return hashlib.sha256(str(self.state_dir).encode()).hexdigest()[:16]

    def read(self) -> StackInfo | None:
        """The stack that was last written down and not stopped in order."""
        try:
            stored: dict[str, Any] = json.loads(self.state.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        known = {field.name for field in fields(StackInfo)}
        values: dict[str, Any] = {
            name: Path(value) if value and name.endswith(("_dir", "_path")) else value
            for name, value in stored.items()
            if name in known
        }
        return StackInfo(**values)

    def read_failure(self) -> str:
        """Why the last stack ended by itself; empty if it did not."""
        try:
            return self.failure.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def write(self, info: StackInfo, **changes: Any) -> StackInfo:
        """Stores `info` with `changes` atomically and returns it."""
        info = replace(info, **changes)
        draft = self.state.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(json.dumps(asdict(info), default=str, indent=2) + "\n")
        draft.replace(self.state)
        return info

    def write_metrics_targets(
        self, info: StackInfo, edge: str, ray: str, services: str
    ) -> StackInfo:
        """Stores where metrics are, in `info` and as files that Prometheus discovers."""
        self.metrics_targets.mkdir(exist_ok=True)
        for name, address in (("edge", edge), ("ray", ray), ("services", services)):
            targets = [{"targets": [address], "labels": {}}]
            (self.metrics_targets / f"{name}.json").write_text(json.dumps(targets) + "\n")
        return self.write(
            info,
            edge_metrics_address=edge,
            ray_metrics_address=ray,
            services_metrics_address=services,
        )


class StackError(Exception):
    """A fault of the local stack, with a remedy."""


class NoStack(StackError):
    """No stack with this state directory is up or starting."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(
            f"No stack of {state_dir} is running. Start one with 'cytosynth up', or name the "
            "services with --address HOST:PORT or CYTOSYNTH_ADDRESS."
        )


class AlreadyRunning(StackError):
    """A stack with this state directory runs already; `info` says where."""

    def __init__(self, info: StackInfo) -> None:
        self.info = info
        verb = "starting" if info.phase == "starting" else "running"
        super().__init__(
            f"Cytosynth is already {verb} at {info.address} (pid {info.pid}). "
            "Stop it with 'cytosynth down', or start another one beside it with another "
            "--state-dir and --port."
        )


class PortTaken(StackError):
    """The edge's port is in use; `free_port` was free."""

    def __init__(self, host: str, port: int, free_port: int, owner: str = "") -> None:
        self.host, self.port, self.free_port, self.owner = host, port, free_port, owner
        super().__init__(
            f"Port {port} on {host} is already in use{f' by {owner}' if owner else ''}. "
            f"Choose another, for example: cytosynth up --port {free_port}"
        )


class ServicesMissing(StackError):
    """This installation is the client alone."""

    def __init__(self) -> None:
        super().__init__(
            "The services are not installed here: run 'make setup' in a checkout of Cytosynth and "
            "use its command, or name services that run elsewhere with --address."
        )


class StartupFailed(StackError):
    """The stack did not become ready and was stopped; see `log_path`."""

    def __init__(self, problem: str, log_path: Path) -> None:
        self.log_path = log_path
        super().__init__(f"{problem}\nThe log is {log_path}")
