"""Addresses, unreachable services and message limits."""

from __future__ import annotations

import pytest

from cytosynth.client import (
    Client,
    CytosynthError,
)
from services.common.errors import ResourceExhausted


def test_nobody_at_the_address_is_told_in_one_line() -> None:
    with Client("127.0.0.1:1") as lonely, pytest.raises(CytosynthError) as caught:
        lonely.list_jobs()
    assert str(caught.value).startswith("no Cytosynth answers at 127.0.0.1:1; start one with")
    with Client("127.0.0.1:1") as lonely, pytest.raises(CytosynthError, match="no Cytosynth"):
        lonely.check(0.3)


@pytest.mark.parametrize("address", ["localhost", "host:0", "host:99999", "a b:1", "http://x:1"])
def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(CytosynthError, match="host:port"):
        Client(address)


def test_a_message_over_the_limit_has_a_remedy(client: Client) -> None:
    images = [bytes([1]) * 19_000_000]
    client.classify(images)
    stub = client._classifier
    from cytosynth.classifier.v1 import classifier_pb2

    request = classifier_pb2.ClassifyRequest(images=images * 2)
    with pytest.raises(CytosynthError) as caught:
        client._connection.call(stub.Classify, request)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert caught.value.remedy == "send less in one message"


def test_a_busy_service_says_when_to_come_back() -> None:
    from cytosynth.client.errors import error_from_status
    from services.common.rpc.handlers import to_status

    error = error_from_status(to_status(ResourceExhausted("the queue is full", "wait", 2.5), "r1"))
    assert error.retry_after_seconds == 2.5
    assert str(error) == "the queue is full; wait (retry after 2.5 s)"
    assert error.to_dict()["code"] == "RESOURCE_EXHAUSTED"
