"""The one table from domain errors to google.rpc statuses."""

from __future__ import annotations

import logging

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.common import errors
from services.common.storage_errors import storage_error

DOMAIN = "cytosynth"
# gRPC refuses trailers above 8 KiB. A message is in them up to three times, once with
# three bytes for each that is not ASCII.
_MAX_TEXT_BYTES = 700
# Of all fields and problems together, where an error lists several.
_MAX_LISTED_BYTES = 2400

_logger = logging.getLogger("cytosynth.calls")


def to_status(error: BaseException, request_id: str = "") -> status_pb2.Status:
    """What a client may know of ``error``.

    Args:
        error: Anything that a handler raised. Unknown exceptions are logged in full and
            told to the client by request id only.
        request_id: The request that failed, given to the client with every error.

    Returns:
        The status with its details: ErrorInfo always; BadRequest, ResourceInfo,
        PreconditionFailure and RetryInfo where they apply; RequestInfo if the id is known.
    """
    known = _as_domain_error(error)
    if known is None:
        _logger.error("internal error, request id %s", request_id or "unknown", exc_info=error)
        known = _Internal(f"internal error, request id {request_id or 'unknown'}")
    status = status_pb2.Status(code=code_pb2.Code.Value(known.code), message=_cut(known.message))
    for detail in _details(known, request_id):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class _Internal(errors.DomainError):
    code = "INTERNAL"


def _details(error: errors.DomainError, request_id: str) -> list[Message]:
    remedy = str(getattr(error, "remedy", ""))
    info = error_details_pb2.ErrorInfo(
        reason=error.code, domain=DOMAIN, metadata={"remedy": _cut(remedy)} if remedy else {}
    )
    details: list[Message] = [info]
    match error:
        case errors.InvalidArgument():
            found = [(error.field, error.problem), *error.further]
            most = _MAX_TEXT_BYTES if len(found) == 1 else _MAX_LISTED_BYTES // len(found)
            violations = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=_cut(field, most // 2), description=_cut(problem, most // 2)
                )
                for field, problem in found
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        case errors.NotFound() | errors.AlreadyExists():
            details.append(
                error_details_pb2.ResourceInfo(
                    resource_type=error.resource_name.partition("/")[0],
                    resource_name=_cut(error.resource_name),
                )
            )
        case errors.FailedPrecondition():
            precondition = error_details_pb2.PreconditionFailure.Violation(
                type="STATE", subject=_cut(error.subject), description=_cut(error.problem)
            )
            details.append(error_details_pb2.PreconditionFailure(violations=[precondition]))
        case errors.ResourceExhausted() | errors.Unavailable():
            if error.retry_after_seconds > 0:
                delay = duration_pb2.Duration()
                delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
                details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    return details


def _as_domain_error(error: BaseException) -> errors.DomainError | None:
    """The domain error that ``error`` is, carries or stands for."""
    cause = getattr(error, "cause", None)  # Ray wraps what a remote replica raised
    for candidate in (cause, error):
        if isinstance(candidate, errors.DomainError):
            return candidate
    names = {parent.__name__ for parent in type(error).__mro__}
    if names & _LOST_REPLICA:
        return errors.Unavailable("the replica that worked on this request was lost")
    if "BackPressureError" in names:
        return errors.ResourceExhausted(
            "the service is busy and its queue is full", "try again later", 2.0
        )
    found = storage_error(error)
    if found is not None:
        # Which file or host it was, only the server's log may tell.
        _logger.error("storage failed: %s", found, exc_info=error)
    return found


# By name, so that neither this module nor its tests need Ray.
_LOST_REPLICA = {
    "RayActorError",
    "ActorUnavailableError",
    "DeploymentUnavailableError",
    "WorkerCrashedError",
    "NodeDiedError",
    "ObjectLostError",
    "OwnerDiedError",
}


def _cut(text: str, most_bytes: int = _MAX_TEXT_BYTES) -> str:
    data = text.encode(errors="replace")
    if len(data) <= most_bytes:
        return text
    return data[: most_bytes - 3].decode(errors="ignore") + "…"
