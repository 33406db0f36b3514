"""A reader that stops holds the samplers back at default settings."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from services.generator.config import GeneratorSettings
from tests.support.generator_app import Running, ask, running_generator, series_of

NUM_IMAGES = 20_000
IN_TRANSIT = 4_000
"""Images of 3 kB, at most, in buffers of proxy and client."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_generator(tmp_path_factory.mktemp("generator")) as running:
        yield running


def sampled_when_still(tenant: str) -> int:
    """Images delivered by samplers, once constant for 15 s."""
    number, since = 0, time.monotonic()
    until = since + 180
    while number == 0 or time.monotonic() - since < 15:
        assert time.monotonic() < until, f"{number} images and still more"
        time.sleep(2)
        now = int(series_of(tenant)["images_total"])
        if now != number:
            number, since = now, time.monotonic()
    return number


def test_a_reader_that_stops_holds_the_samplers_back_at_the_default_settings(
    running: Running,
) -> None:
    settings = GeneratorSettings()
    in_flight = settings.generator_shards_per_replica * settings.generator_shard_num_images
    request = ask(("monocyte", NUM_IMAGES))
    metadata = [("x-cytosynth-tenant", "slow")]
    stream = running.stub.Synthesize(request, timeout=600, metadata=metadata)
    assert next(stream).index == 0
    stopped = sampled_when_still("slow")
    assert in_flight <= stopped <= in_flight + IN_TRANSIT
    taken = stopped + 500
    assert [next(stream).index for _ in range(taken)] == list(range(1, taken + 1))
    again = sampled_when_still("slow")
    assert taken + in_flight <= again <= taken + in_flight + IN_TRANSIT
    stream.cancel()
