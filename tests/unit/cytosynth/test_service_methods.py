"""What the protos promise about repeated calls, and who relies on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, MethodDescriptor

from cytosynth.client.connection import service_config
from cytosynth.service_methods import (
    SERVICE_NAMES,
    SERVICES,
    changes_nothing,
    is_unary,
    may_be_repeated,
    methods,
)

METHODS: list[MethodDescriptor] = [method for name in SERVICES for method in methods(name)]
ONLY_ONCE = {
    *("RollbackAlias", "DeleteAlias"),
    *("DeleteDataset", "DeleteAdapter", "DeleteClassifier", "DeleteReport"),
}
"""A second rollback goes back further; a second deletion finds nothing and has no proof."""


def _has_key(message: Descriptor) -> bool:
    if "idempotency_key" in message.fields_by_name:
        return True
    parts = [field.message_type for field in message.fields if field.message_type]
    return any("idempotency_key" in part.fields_by_name for part in parts)


def test_services_have_one_name_each() -> None:
    assert [name.split(".")[1] for name in SERVICE_NAMES] == list(SERVICES)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_says_whether_it_may_be_repeated(method: MethodDescriptor) -> None:
    assert method.GetOptions().HasField("idempotency_level")
    assert may_be_repeated(method) is (method.name not in ONLY_ONCE)
    reads = method.name.startswith(("Get", "List", "Watch", "Download", "Classify", "Synthesize"))
    assert changes_nothing(method) is reads


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_calls_with_an_idempotency_key_may_be_repeated(method: MethodDescriptor) -> None:
    if _has_key(method.input_type):
        assert may_be_repeated(method)
        assert not changes_nothing(method)
    else:
        assert not method.name.startswith(("Create", "Import", "Upload"))


def test_the_client_repeats_what_the_protos_allow() -> None:
    config: dict[str, Any] = json.loads(json.dumps(service_config()))
    [policy] = config["methodConfig"]
    repeated = {(each["service"], each["method"]) for each in policy["name"]}
    assert repeated == {
        (method.containing_service.full_name, method.name)
        for method in METHODS
        if is_unary(method) and may_be_repeated(method)
    }
    names = {name for _, name in repeated}
    assert {"CreateStudy", "ImportDataset", "CreateReport", "CancelJob", "Classify"} <= names
    assert not names & ONLY_ONCE
