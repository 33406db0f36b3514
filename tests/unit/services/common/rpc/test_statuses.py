"""Domain errors: codes and details; an unknown error, which tells nothing."""

import logging
from urllib.parse import quote

import pytest
from google.rpc import code_pb2, error_details_pb2

from services.common import errors
from services.common.rpc.statuses import to_status
from tests.unit.services.common.test_errors import EVERY_ERROR


def details(error, request_id="r1"):
    found = {}
    for packed in to_status(error, request_id).details:
        kind = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, kind)()
        packed.Unpack(message)
        found[kind] = message
    return found


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_error_has_its_code_and_error_info(error):
    status = to_status(error, "r1")
    assert code_pb2.Code.Name(status.code) == error.code
    assert status.message == error.message
    assert details(error)["ErrorInfo"].domain == "cytosynth"
    assert details(error)["RequestInfo"].request_id == "r1"


def test_invalid_argument_names_the_field():
    found = details(errors.InvalidArgument("seed", "is -1", "send 0 or more"))
    violation = found["BadRequest"].field_violations[0]
    assert (violation.field, violation.description) == ("seed", "is -1")
    assert found["ErrorInfo"].metadata["remedy"] == "send 0 or more"


def test_missing_resource_is_named():
    info = details(errors.NotFound("adapters/a"))["ResourceInfo"]
    assert (info.resource_type, info.resource_name) == ("adapters", "adapters/a")


def test_precondition_names_its_subject():
    found = details(errors.FailedPrecondition("adapters/a", "is of another base", "name it"))
    assert found["PreconditionFailure"].violations[0].subject == "adapters/a"


def test_exhaustion_says_when_to_retry_only_if_waiting_helps():
    delay = details(errors.ResourceExhausted("full", "wait", 1.5))["RetryInfo"].retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)
    assert "RetryInfo" not in details(errors.ResourceExhausted("too many images"))


def test_unknown_exception_is_logged_in_full_and_told_by_request_id(caplog):
    with caplog.at_level(logging.ERROR, logger="cytosynth.calls"):
        logging.getLogger("cytosynth").propagate = True
        status = to_status(RuntimeError("secret at 10.0.0.1"), "r9")
    assert status.code == code_pb2.INTERNAL
    assert status.message == "internal error, request id r9"
    assert b"secret" not in status.SerializeToString()
    assert "r9" in caplog.text
    assert "secret at 10.0.0.1" in caplog.text


def test_error_from_another_replica_keeps_its_meaning():
    class RayTaskErrorLike(Exception):
        cause = errors.NotFound("adapters/a")

    assert to_status(RayTaskErrorLike("long traceback")).code == code_pb2.NOT_FOUND


def test_lost_replica_is_unavailable_and_may_be_retried():
    class RayActorError(Exception):
        pass

    class ActorDiedError(RayActorError):
        pass

    found = details(ActorDiedError("pid 7 at 10.0.0.1"))
    assert to_status(ActorDiedError("pid 7 at 10.0.0.1")).code == code_pb2.UNAVAILABLE
    assert found["RetryInfo"].retry_delay.seconds == 1


def test_every_fault_of_a_request_is_a_violation():
    error = errors.InvalidArgument("a", "is 1", "", [("b", "is 2"), ("c", "is 3")])
    found = details(error)["BadRequest"].field_violations
    assert [(each.field, each.description) for each in found] == [
        ("a", "is 1"),
        ("b", "is 2"),
        ("c", "is 3"),
    ]


@pytest.mark.parametrize("num_others", [0, errors.MAX_LISTED - 1])
def test_status_fits_into_grpc_trailers(num_others: int):
    text = "ü" * 50_000
    error = errors.InvalidArgument(text, text, text, [(text, text)] * num_others)
    status = to_status(error, "r" * 64)
    in_base64 = len(status.SerializeToString()) * 4 / 3
    assert in_base64 + len(quote(status.message)) < 8000
