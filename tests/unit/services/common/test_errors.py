"""Domain errors keep their fields through storage, pickling and Ray's wrapping."""

import json
import pickle

import pytest

from services.common import errors

EVERY_ERROR = [
    errors.DomainError("odd"),
    errors.InvalidArgument("seed", "is -1", "send 0 or more"),
    errors.InvalidArgument("image", "1 is bad", "send others", [("image", "2 is bad")], 7),
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
    stored = json.loads(json.dumps(error.to_dict()))
    for copy in (errors.DomainError.from_dict(stored), pickle.loads(pickle.dumps(error))):
        assert type(copy) is type(error)
        assert copy.to_dict() == error.to_dict()
        assert str(copy) == str(error)


def test_message_names_field_problem_and_remedy():
    error = errors.InvalidArgument("class_counts[0].num_images", "is 0", "send 1 to 100000")
    assert error.message == "class_counts[0].num_images: is 0; send 1 to 100000"


def test_several_faults_are_told_together_and_the_rest_is_counted():
    found = [errors.InvalidArgument("image.data", f"image {n} is bad", "fix") for n in range(7)]
    found[1] = errors.InvalidArgument("image.class_id", "image 1 is 'X'", "send a class")
    joined = errors.InvalidArgument.joined(found, 40)
    assert joined.message == (
        "image.data: image 0 is bad; image.class_id: image 1 is 'X'; image 2 is bad; "
        "image 3 is bad; image 4 is bad; and 35 more; fix; send a class"
    )
    assert len(joined.further) == 6 and joined.num_more == 33
    assert errors.InvalidArgument.joined(found[:1], 1).to_dict() == found[0].to_dict()
