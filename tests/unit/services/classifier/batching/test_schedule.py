"""Admission by estimated wait, turns, and the closing of batches."""

from __future__ import annotations

import pytest

from services.classifier.batching.flows import Flow
from services.classifier.batching.schedule import Limits, Schedule
from tests.support.fakes.scores import FakeNetwork, image, work


def queue(schedule: Schedule, flow: Flow, numbers: range, now: float = 0.0) -> None:
    """Queues images of an admitted call."""
    for number in numbers:
        schedule.submit(work(flow, number), now)


def decode_all(schedule: Schedule, now: float = 0.0) -> list[int]:
    """Decode everything; give the numbers in the order of turns."""
    order = []
    while (next_one := schedule.next_to_decode()) is not None:
        next_one.image = next_one.prepare()
        order.append(int(next_one.image[0, 0, 0]))
        schedule.decoded(next_one, 0.001, now)
    return order


def numbers_of_next_batch(schedule: Schedule, now: float = 0.0) -> list[int]:
    batch, _ = schedule.next_batch(now)
    assert batch is not None
    return [int(each.image[0, 0, 0]) for each in batch.works if each.image is not None]


def excess(schedule: Schedule, network: FakeNetwork, start: float = 0.0) -> float:
    """Excess wait of a call at a queue of constant length."""
    return [schedule.excess_wait(network.lane[0], network, start + 0.1 * n) for n in range(10)][-1]


def test_calls_of_a_tenant_take_turns_image_by_image() -> None:
    schedule, network = Schedule(Limits()), FakeNetwork()
    queue(schedule, Flow("lab", network), range(20))
    queue(schedule, Flow("lab", network), range(100, 101))
    assert decode_all(schedule)[:3] == [0, 100, 1]
    assert numbers_of_next_batch(schedule) == [0, 100, 1, 2, 3, 4, 5, 6]


def test_tenants_take_turns_batch_by_batch() -> None:
    schedule, busy, calm = Schedule(Limits()), FakeNetwork("busy"), FakeNetwork("calm")
    for _ in range(10):
        queue(schedule, Flow("busy", busy), range(8))
    queue(schedule, Flow("calm", calm), range(100, 116))
    decode_all(schedule)
    tenants = []
    for _ in range(6):
        batch, _ = schedule.next_batch(0.0)
        assert batch is not None
        tenants.append(batch.lane.tenant)
    assert tenants == ["busy", "calm", "busy", "calm", "busy", "busy"]


def test_a_tenant_that_was_away_has_no_claim_on_the_time_of_others() -> None:
    schedule, busy, calm = Schedule(Limits()), FakeNetwork("busy"), FakeNetwork("calm")
    queue(schedule, Flow("busy", busy), range(240))
    decode_all(schedule)
    for _ in range(20):
        schedule.next_batch(0.0)
    queue(schedule, Flow("calm", calm), range(240))
    decode_all(schedule)
    tenants = [batch.lane.tenant for _ in range(8) if (batch := schedule.next_batch(0.0)[0])]
    assert tenants.count("busy") == 4


def test_a_batch_closes_at_once_if_no_other_image_is_on_its_way() -> None:
    schedule = Schedule(Limits(patience=1.0))
    queue(schedule, Flow("lab", FakeNetwork()), range(3))
    decode_all(schedule)
    assert numbers_of_next_batch(schedule) == [0, 1, 2]


def test_a_batch_waits_for_images_that_are_decoded_but_not_for_long() -> None:
    schedule, network = Schedule(Limits(patience=1.0)), FakeNetwork()
    queue(schedule, Flow("lab", network), range(2), now=10.0)
    first = schedule.next_to_decode()
    assert first is not None
    first.image = image(0)
    schedule.decoded(first, 0.001, now=10.0)
    batch, seconds = schedule.next_batch(10.25)
    assert batch is None and seconds == pytest.approx(0.75)
    assert numbers_of_next_batch(schedule, 11.0) == [0]


def test_a_full_batch_waits_for_nothing() -> None:
    schedule, network = Schedule(Limits(patience=1.0)), FakeNetwork()
    queue(schedule, Flow("lab", network), range(9))
    for number in range(8):
        taken = schedule.next_to_decode()
        assert taken is not None
        taken.image = image(number)
        schedule.decoded(taken, 0.001, 0.0)
    assert numbers_of_next_batch(schedule) == list(range(8))


def test_nothing_closes_where_nothing_is_ready() -> None:
    schedule = Schedule(Limits())
    assert schedule.next_batch(0.0) == (None, None)
    assert schedule.next_to_decode() is None


def test_calls_are_refused_by_their_wait_and_not_by_their_number() -> None:
    limits = Limits(max_wait=0.5)
    slow, quick = FakeNetwork(seconds=1.0), FakeNetwork(seconds=0.001)
    for network, is_refused in ((slow, True), (quick, False)):
        schedule = Schedule(limits)
        for _ in range(12):
            queue(schedule, Flow("lab", network), range(1))
        assert (excess(schedule, network) > 0) is is_refused


def test_a_folder_of_images_counts_as_one_turn() -> None:
    schedule, network = Schedule(Limits(max_wait=0.5)), FakeNetwork(seconds=0.2)
    queue(schedule, Flow("lab", network), range(100))
    assert schedule.estimated_wait("lab", 0.0) == pytest.approx(0.2)


def test_a_running_batch_counts_for_the_time_that_it_has_left() -> None:
    schedule, network = Schedule(Limits()), FakeNetwork(seconds=0.2)
    queue(schedule, Flow("lab", network), range(1))
    decode_all(schedule)
    batch, _ = schedule.next_batch(0.0)
    assert batch is not None
    assert schedule.estimated_wait("lab", 0.05) == pytest.approx(0.15)
    assert schedule.estimated_wait("lab", 9.0) == 0
    schedule.finished(batch, 0.2)
    assert schedule.estimated_wait("lab", 0.05) == 0


def test_the_flood_of_one_tenant_refuses_no_other() -> None:
    schedule = Schedule(Limits(max_wait=0.5))
    flood, calm = FakeNetwork("flood", seconds=0.2), FakeNetwork("calm", seconds=0.2)
    for _ in range(200):
        queue(schedule, Flow("flood", flood), range(1))
    assert excess(schedule, flood) > 0
    assert excess(schedule, calm) == 0


def test_without_a_limit_about_two_batches_may_wait() -> None:
    schedule, network = Schedule(Limits()), FakeNetwork(seconds=0.2)
    for _ in range(8):
        queue(schedule, Flow("lab", network), range(1))
    assert excess(schedule, network) == 0
    for _ in range(8):
        queue(schedule, Flow("lab", network), range(1))
    assert excess(schedule, network, start=1.0) > 0


def test_a_burst_is_admitted() -> None:
    schedule, network = Schedule(Limits()), FakeNetwork(seconds=0.2)
    for _ in range(24):
        assert schedule.excess_wait("lab", network, 0.0) == 0
        queue(schedule, Flow("lab", network), range(1))


def test_images_of_a_caller_who_went_away_are_not_computed() -> None:
    schedule, network = Schedule(Limits()), FakeNetwork()
    gone, stays = Flow("lab", network), Flow("lab", network)
    queue(schedule, gone, range(5))
    queue(schedule, stays, range(100, 102))
    in_thread = schedule.next_to_decode()
    assert in_thread is not None and in_thread.flow is gone
    assert len(schedule.cancel(gone)) == 4
    in_thread.image = image(0)
    schedule.decoded(in_thread, 0.001, 0.0)
    assert decode_all(schedule) == [100, 101]
    assert numbers_of_next_batch(schedule) == [100, 101]
    assert schedule.num_waiting == 0


def test_images_that_nobody_waits_for_any_more_are_dropped() -> None:
    schedule, network = Schedule(Limits()), FakeNetwork()
    queue(schedule, Flow("lab", network, deadline=5.0), range(2))
    decode_all(schedule)
    queue(schedule, Flow("lab", network, deadline=50.0), range(100, 101))
    assert schedule.expire(4.0) == []
    assert len(schedule.expire(5.0)) == 2
    decode_all(schedule)
    assert numbers_of_next_batch(schedule, 5.0) == [100]


def test_an_image_that_is_refused_holds_up_no_batch() -> None:
    schedule, network = Schedule(Limits(patience=1.0)), FakeNetwork()
    queue(schedule, Flow("lab", network), range(1))
    queue(schedule, Flow("lab", network), range(7, 8))
    refused, taken = schedule.next_to_decode(), schedule.next_to_decode()
    assert refused is not None and taken is not None
    taken.image = image(7)
    schedule.decoded(taken, 0.001, 0.0)
    assert schedule.next_batch(0.0)[0] is None
    schedule.decoded(refused, 0.001, 0.0)
    assert numbers_of_next_batch(schedule) == [7]
