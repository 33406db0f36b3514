"""Load that a generator process makes, and what it reports, as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OK = 0
NO_ANSWER = -1
"""Status of a call that failed without a gRPC status, or was never answered."""
RESOURCE_EXHAUSTED = 8


@dataclass(frozen=True)
class Target:
    """A server, and how one cell is sent to it.

    Attributes:
        kind: ``grpc`` for the proto's Classify; ``http`` for a PNG posted as the body.
        address: ``host:port`` of a gRPC server, or a URL.
        model: Model named in a gRPC request.
        headers: Headers of an HTTP request.
        form_field: Field of a multipart form that holds the PNG; empty: the PNG is the body.
        answer: Form of an HTTP answer: JSON, or Triton's output of a binary request.
    """

    kind: Literal["grpc", "http"]
    address: str
    model: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    form_field: str = ""
    answer: Literal["json", "triton"] = "json"


@dataclass(frozen=True)
class Phase:
    """Poisson arrivals at one rate."""

    name: str
    calls_per_second: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What the generator does: ask once, a closed or an open loop.

    Attributes:
        mode: ``lean`` is a closed loop through the cheap client of open loops.
        target: Server.
        cells: Folder of PNG files, sent in turn.
        callers: Callers of a closed loop, each of which waits for its answer.
        warmup_seconds, seconds: Time before the counted window of a closed loop, and its length.
        phases: Phases of an open loop, one after another without a gap.
        connections: Connections of the cheap client.
        timeout_seconds: Deadline of a call.
        seed: Seed of the arrivals.
    """

    mode: Literal["ask", "closed", "lean", "open"]
    target: Target
    cells: str
    callers: int = 1
    warmup_seconds: float = 1.0
    seconds: float = 5.0
    phases: tuple[Phase, ...] = ()
    connections: int = 8
    timeout_seconds: float = 10.0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``from_dict`` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        target = Target(**data["target"])
        phases = tuple(Phase(**phase) for phase in data["phases"])
        return Plan(**{**data, "target": target, "phases": phases})


@dataclass(frozen=True)
class ClosedResult:
    """Answers of a counted window.

    Attributes:
        num_answered: Calls answered within the window.
        latencies_ms: Of calls that began within the window, also where they ended later.
            Refused tries count as waiting.
        num_failed: Failed calls that began within the window, by message.
        num_refused: Tries that the server refused within the window, and that were repeated.
        seconds: Length of the window.
        cpu_seconds: CPU time of the generator within the window.
    """

    num_answered: int
    latencies_ms: list[float]
    num_failed: dict[str, int]
    num_refused: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class OpenResult:
    """Calls of an open loop.

    Attributes:
        due: Second of the run at which each call was due.
        sent: Second at which it was sent, later when the generator lagged.
        latency_ms: From sending to the last byte of the answer.
        status: gRPC status, or ``NO_ANSWER``.
        seconds: Length of the whole run.
        cpu_seconds: CPU time of the generator, by phase.
    """

    due: list[float]
    sent: list[float]
    latency_ms: list[float]
    status: list[int]
    seconds: float
    cpu_seconds: list[float]
