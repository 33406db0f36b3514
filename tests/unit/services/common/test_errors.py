"""Domain errors keep their fields through storage, pickling and Ray's wrapping."""

import pickle

import pytest

from services.common import errors

EVERY_ERROR = [
    errors.DomainError("odd"),
    errors.InvalidArgument("seed", "is -1", "send 0 or more"),
    errors.NotFound("adapters/a", "list adapters"),
    errors.AlreadyExists("adapters/a", "use another id"),
    errors.FailedPrecondition("adapters/a", "was trained for base x", "use base x"),
    errors.ResourceExhausted("the queue is full", "wait", 2.5),
    errors.Unavailable("the generator is away", 3.0),
    errors.PermissionDenied("not yours"),
    errors.Cancelled(),
    errors.DataLoss("a file is gone", "restore it"),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_error_survives_storage_and_pickling(error):
    for copy in (errors.DomainError.from_dict(error.to_dict()), pickle.loads(pickle.dumps(error))):
        assert type(copy) is type(error)
        assert copy.to_dict() == error.to_dict()
        assert str(copy) == str(error)


def test_message_names_field_problem_and_remedy():
    error = errors.InvalidArgument("class_counts[0].num_images", "is 0", "send 1 to 100000")
    assert error.message == "class_counts[0].num_images: is 0; send 1 to 100000"
