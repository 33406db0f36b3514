"""Names are built and parsed in one place."""

import pytest

from services.common import resource_names
from services.common.errors import InvalidArgument


@pytest.mark.parametrize("kind", resource_names.KINDS)
def test_built_name_parses_back(kind):
    id = resource_names.new_id(kind)
    assert resource_names.parse(kind, resource_names.build(kind, id), "name") == id


@pytest.mark.parametrize(
    "name",
    ["", "adapters", "adapters/", "datasets/a", "adapters/A", "adapters/-a", "adapters/a/b",
     "adapters/../x", "adapters/" + "a" * 64, "adapters/a\n", "/a", "adapters/ä"],
)  # fmt: skip
def test_wrong_name_is_refused_with_its_field(name):
    with pytest.raises(InvalidArgument) as caught:
        resource_names.parse(resource_names.ADAPTERS, name, "synthetic.adapter")
    assert caught.value.field == "synthetic.adapter"
    assert "adapters/<id>" in caught.value.message


def test_name_of_several_kinds():
    kinds = (resource_names.CLASSIFIERS, resource_names.ALIASES)
    parsed = resource_names.parse_any(kinds, "aliases/production", "model")
    assert parsed == ("aliases", "production")
    with pytest.raises(InvalidArgument, match="classifiers/<id> or aliases/<id>"):
        resource_names.parse_any(kinds, "adapters/a", "model")


def test_new_ids_are_unique_and_sort_by_time(monkeypatch):
    times = iter(range(1_700_000_000_000_000_000, 1_700_000_001_000_000_000, 1_000_000))
    monkeypatch.setattr(resource_names.time, "time_ns", lambda: next(times))
    ids = [resource_names.new_id(resource_names.JOBS) for _ in range(200)]
    assert ids == sorted(set(ids))
    assert all(resource_names.is_id(id) for id in ids)
