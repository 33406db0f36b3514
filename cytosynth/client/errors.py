"""The client's one error, decoded from what the services sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cytosynth.client.call_headers import REQUEST_ID_KEY

_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "request_id"
_MESSAGE_KEY = "x-cytosynth-message"


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that was refused, and why."""

    field: str
    description: str


class CytosynthError(Exception):
    """A request that failed.

    Attributes:
        code: gRPC status name, for example ``INVALID_ARGUMENT``.
        message: What was wrong, in one sentence.
        field_violations: The request fields at fault, if any.
        remedy: What to do about it; empty if the service named nothing.
        retry_after_seconds: When to try again; 0 if waiting does not help.
        request_id: Names the request in the service's log; empty if it sent none.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field_violations: Iterable[FieldViolation] = (),
        remedy: str = "",
        retry_after_seconds: float = 0.0,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field_violations = tuple(field_violations)
        self.remedy = remedy
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id

    def __str__(self) -> str:
        """One line: message, remedy and when to retry."""
        text = " ".join(self.message.split())
        if self.remedy and self.remedy not in text:
            text = f"{text}; {self.remedy}"
        if self.retry_after_seconds:
            text = f"{text} (retry after {self.retry_after_seconds:g} s)"
        if self.request_id and self.code in ("INTERNAL", "UNKNOWN") and self.request_id not in text:
            text = f"{text} (request {self.request_id})"
        return text

    def to_dict(self) -> dict[str, object]:
        """JSON form for machines."""
        return {
            "code": self.code,
            "message": self.message,
            "field_violations": [
                {"field": violation.field, "description": violation.description}
                for violation in self.field_violations
            ],
            "remedy": self.remedy,
            "retry_after_seconds": self.retry_after_seconds,
            "request_id": self.request_id,
        }

    def reworded(
        self, message: str, remedy: str, field_violations: Iterable[FieldViolation]
    ) -> Self:
        """The same error with another text."""
        renamed = type(self).__new__(type(self), message)
        renamed.__dict__.update(self.__dict__)
        renamed.message, renamed.remedy = message, remedy
        renamed.field_violations = tuple(field_violations)
        return renamed


class JobFailed(CytosynthError):
    """A job that ended FAILED or CANCELLED; ``job_name`` says which."""

    def __init__(self, job_name: str, error: CytosynthError) -> None:
        super().__init__(
            error.code,
            error.message,
            field_violations=error.field_violations,
            remedy=error.remedy,
            retry_after_seconds=error.retry_after_seconds,
            request_id=error.request_id,
        )
        self.job_name = job_name


def invalid_argument(field: str, problem: str, remedy: str = "") -> CytosynthError:
    """The error of an invalid argument, raised before anything is sent."""
    return CytosynthError(
        "INVALID_ARGUMENT",
        f"{field}: {problem}",
        field_violations=[FieldViolation(field, problem)],
        remedy=remedy,
    )


def error_from_status(status: status_pb2.Status, request_id: str = "") -> CytosynthError:
    """Decode a ``google.rpc.Status`` of an RPC or a job."""
    violations: list[FieldViolation] = []
    remedy = ""
    retry_after_seconds = 0.0
    for detail in status.details:
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            violations += [
                FieldViolation(item.field, item.description)
                for item in bad_request.field_violations
            ]
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            remedy = info.metadata.get("remedy", remedy)
            request_id = info.metadata.get("request_id", request_id)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            request_info = error_details_pb2.RequestInfo()
            detail.Unpack(request_info)
            request_id = request_info.request_id or request_id
    return CytosynthError(
        _code_name(status.code),
        status.message or "no reason given",
        field_violations=violations,
        remedy=remedy,
        retry_after_seconds=retry_after_seconds,
        request_id=request_id,
    )


def error_from_rpc(error: grpc.RpcError, address: str) -> CytosynthError:
    """Read a failed call; ``address`` is named when nothing answered there."""
    trailers = dict(getattr(error, "trailing_metadata", tuple)() or ())
    # The edge names the request in the headers, or, where it answers itself, in the trailers.
    headers = dict(getattr(error, "initial_metadata", tuple)() or ()) | trailers
    request_id = str(headers.get(REQUEST_ID_KEY) or headers.get(_REQUEST_ID_KEY, ""))
    packed = trailers.get(_DETAILS_KEY)
    if isinstance(packed, bytes):
        try:
            return error_from_status(status_pb2.Status.FromString(packed), request_id)
        except ValueError:
            pass  # Not a Status after all: the plain code and message still say what happened.
    code: grpc.StatusCode = error.code()
    # An edge that records traces keeps messages out of grpc-message, which it would write down.
    from_edge = unquote(str(headers.get(_MESSAGE_KEY, "")))
    message = (error.details() or from_edge).strip()
    remedy = ""
    if code is grpc.StatusCode.UNAVAILABLE and _nothing_answered(message):
        return nothing_answers(address)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"{address} did not answer in time"
        remedy = "try again, or allow more time with --timeout"
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        remedy = "send less in one message"
    return CytosynthError(
        code.name, message or "no reason given", remedy=remedy, request_id=request_id
    )


def nothing_answers(address: str) -> CytosynthError:
    """What to say when no service is reached at all."""
    return CytosynthError(
        "UNAVAILABLE",
        f"no Cytosynth answers at {address}",
        remedy="start one with `cytosynth up`, or name another --address; "
        "for one that speaks TLS add --certs-dir",
    )


def _nothing_answered(message: str) -> bool:
    low = message.lower()
    return (
        "failed to connect" in low or "dns resolution failed" in low or "connection refused" in low
    )


def _code_name(code: int) -> str:
    try:
        return code_pb2.Code.Name(code)
    except ValueError:
        return "UNKNOWN"
