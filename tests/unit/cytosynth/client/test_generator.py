"""Synthesis as one unbroken stream, against a real gRPC server."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from cytosynth.client import (
    Client,
    CytosynthError,
    GeneratorClient,
    SamplerSettings,
    SynthesisSettings,
)
from cytosynth.client.connection import retry_delay
from tests.support.servers.toy_services.generator import MANIFEST, MANIFEST_DIGEST, Break
from tests.support.servers.toy_services.server import ToyServices

COUNTS = {"blast": 3, "mono": 2}
IN_ORDER = [(0, "blast"), (1, "blast"), (2, "blast"), (3, "mono"), (4, "mono")]


def test_images_come_in_order_with_seed_and_manifest(toy: ToyServices, client: Client) -> None:
    wanted = SynthesisSettings("adapters/a", seed=5, sampler=SamplerSettings("fast"))
    images = list(client.synthesize(COUNTS, wanted))
    assert [(image.index, image.class_id) for image in images] == IN_ORDER
    assert images[4].data == b"mono:4"
    assert images[4].image_seed == 1004
    assert (images[0].width, images[0].height) == (64, 48)
    assert all(image.manifest == MANIFEST for image in images)
    assert {image.manifest_digest for image in images} == {MANIFEST_DIGEST}
    request = toy.generator.requests[0]
    assert (request.adapter, request.seed, request.sampler.preset) == ("adapters/a", 5, "fast")
    assert not request.sampler.HasField("num_steps")
    assert toy.generator.metadata[0]["x-cytosynth-tenant"] == "ward-3"


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN],
)
def test_a_broken_stream_goes_on_at_the_next_index(
    toy: ToyServices, client: Client, code: grpc.StatusCode
) -> None:
    toy.generator.breaks = [Break(2, code), Break(0, code), Break(1, code)]
    images = list(client.synthesize(COUNTS))
    assert [(image.index, image.class_id) for image in images] == IN_ORDER
    assert [request.first_index for request in toy.generator.requests] == [0, 2, 2, 3]


def test_a_break_after_the_last_image_loses_nothing(toy: ToyServices, client: Client) -> None:
    toy.generator.breaks = [Break(5)]
    assert len(list(client.synthesize(COUNTS))) == 5
    assert len(toy.generator.requests) == 1


def test_it_gives_up_after_failures_without_progress(toy: ToyServices, client: Client) -> None:
    toy.generator.breaks = [Break(2)] + [Break(0)] * 9
    images = []
    with pytest.raises(CytosynthError, match="no progress at image 2 of 5") as caught:
        images.extend(client.synthesize(COUNTS, max_failures=4))
    assert caught.value.code == "UNAVAILABLE"
    assert [request.first_index for request in toy.generator.requests] == [0, 2, 2, 2]


@pytest.mark.parametrize(("images_before", "num_tries"), [(0, 10), (2, 66)])
def test_a_stream_under_way_is_tried_for_as_long_as_a_restart_takes(
    toy: ToyServices,
    client: Client,
    images_before: int,
    num_tries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client._connection, "pause", waits.append)
    toy.generator.breaks = [Break(images_before)] + [Break(0)] * 100
    with pytest.raises(CytosynthError, match=f"{num_tries} failures in a row"):
        list(client.synthesize(COUNTS))
    assert len(toy.generator.requests) == num_tries
    assert len(waits) == num_tries - 1
    real_waits = sum(retry_delay(number) for number in range(1, num_tries))
    assert real_waits > (300 if images_before else 20)


def test_a_restarted_server_is_found_again(toy: ToyServices) -> None:
    with GeneratorClient(toy.address) as client:
        toy.generator.breaks = [Break(1)]
        stream = client.synthesize(COUNTS)
        assert next(stream).index == 0
        toy.stop()
        threading.Timer(0.5, toy.start).start()
        assert [image.index for image in stream] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("skip", "missing"), ("double", "doubled"), ("new_manifest_from", "the model changed")],
)
def test_gaps_doubles_and_changed_models_are_refused(
    toy: ToyServices, client: Client, fault: str, message: str
) -> None:
    setattr(toy.generator, fault, 2)
    with pytest.raises(CytosynthError, match=message) as caught:
        list(client.synthesize(COUNTS))
    assert caught.value.code == "DATA_LOSS"


def test_a_model_changed_between_two_tries_is_refused(toy: ToyServices, client: Client) -> None:
    toy.generator.breaks = [Break(2)]
    stream = client.synthesize(COUNTS)
    next(stream)
    next(stream)
    toy.generator.new_manifest_from = 2
    with pytest.raises(CytosynthError, match="the model changed at image 2"):
        list(stream)


def test_a_refusal_names_field_and_remedy_and_is_not_tried_again(
    toy: ToyServices, client: Client
) -> None:
    with pytest.raises(CytosynthError) as caught:
        list(client.synthesize({"blast": -1}))
    error = caught.value
    assert error.code == "INVALID_ARGUMENT"
    assert error.field_violations[0].field == "class_counts[0].num_images"
    assert error.remedy == "send 1 or more"
    assert error.request_id == "request-7"
    assert str(error) == "class_counts[0].num_images: is -1; send 1 or more"
    assert len(toy.generator.requests) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        SynthesisSettings(seed=2**70),
        SynthesisSettings(image_format="gif"),
        SynthesisSettings(priority="now"),
        SynthesisSettings(sampler=SamplerSettings(guidance_scale="high")),  # type: ignore[arg-type]
    ],
)
def test_values_that_no_field_can_hold_are_told_before_sending(
    toy: ToyServices, client: Client, wrong: SynthesisSettings
) -> None:
    with pytest.raises(CytosynthError) as caught:
        client.synthesize(COUNTS, wrong)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert toy.generator.requests == []


def test_closing_ends_a_wait_in_another_thread(toy: ToyServices) -> None:
    toy.stop()
    lonely = GeneratorClient(toy.address)
    caught: list[CytosynthError] = []

    def pull() -> None:
        try:
            list(lonely.synthesize(COUNTS, max_failures=100))
        except CytosynthError as error:
            caught.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    time.sleep(0.3)
    lonely.close()
    thread.join(5)
    assert not thread.is_alive()
    assert caught[0].code == "CANCELLED"


def test_capabilities(client: Client) -> None:
    found = client.capabilities()
    assert found.bases == ("toy",)
    assert found.presets == {"fast": {"num_steps": 2, "guidance_scale": 1.5}}
    assert found.image_size == {"toy": 64}


def test_delays_grow_and_stay_bounded() -> None:
    assert [retry_delay(n) for n in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert retry_delay(1000) == 5.0
