"""Step scheduler: batches fit, interactive first, equal shares, no idle credit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.engine.scheduler import BULK_SHARE, StepScheduler


@dataclass(eq=False)
class Request:
    """A stream of images that each take ``rows_per_step``."""

    tenant: str
    request_id: str
    interactive: bool
    rows_per_step: tuple[int, ...] = (2, 2, 2)
    num_images: int = 10_000
    blocked: bool = False
    num_begun: int = 0

    @property
    def has_waiting(self) -> bool:
        return not self.blocked and self.num_begun < self.num_images


@dataclass(eq=False)
class Image:
    """An image in flight."""

    stream: Request
    step: int = 0

    @property
    def num_rows(self) -> int:
        return self.stream.rows_per_step[self.step]

    @property
    def done(self) -> bool:
        return self.step >= len(self.stream.rows_per_step)


class Queue:
    """A scheduler, advanced as the engine does it."""

    def __init__(self, num_rows: int, num_states: int = 10_000) -> None:
        self.scheduler = StepScheduler[Request, Image](num_rows)
        self.num_rows, self.num_states = num_rows, num_states
        self.streams: list[Request] = []

    def add(self, *streams: Request) -> None:
        for stream in streams:
            self.scheduler.add(stream)
            self.streams.append(stream)

    def step(self) -> list[Image]:
        picked = self.scheduler.pick(self._begin)
        assert len(set(picked)) == len(picked)
        assert sum(image.num_rows for image in picked) <= self.num_rows
        for image in picked:
            assert not image.done
            image.step += 1
            if image.done:
                self.scheduler.finish(image.stream, image)
        return picked

    def rows(self, num_steps: int) -> Counter[str]:
        """Rows that each tenant gets in so many steps."""
        rows: Counter[str] = Counter()
        for _ in range(num_steps):
            for image in self.step():
                rows[image.stream.tenant] += image.stream.rows_per_step[image.step - 1]
        return rows

    def _begin(self, stream: Request) -> Image | None:
        num_open = sum(len(self.scheduler.in_flight(other)) for other in self.streams)
        if not stream.has_waiting or num_open >= self.num_states:
            return None
        stream.num_begun += 1
        return Image(stream)


STREAM = st.builds(
    Request,
    tenant=st.sampled_from("abc"),
    request_id=st.sampled_from("xyz"),
    interactive=st.booleans(),
    rows_per_step=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=6).map(tuple),
    num_images=st.integers(0, 12),
)


@settings(deadline=None)
@given(
    num_rows=st.integers(4, 40),
    num_states=st.integers(4, 30),
    streams=st.lists(STREAM, min_size=1, max_size=8),
    data=st.data(),
)
def test_batches_fit_and_every_image_gets_all_its_steps(
    num_rows: int, num_states: int, streams: list[Request], data: st.DataObject
) -> None:
    queue, waiting, dropped = Queue(num_rows, num_states), list(streams), set()
    steps: Counter[Image] = Counter()
    for _ in range(2_000):
        if waiting and data.draw(st.integers(0, 2)) == 0:
            queue.add(waiting.pop())
        here = [stream for stream in queue.streams if stream not in dropped]
        if here and len(dropped) < 2 and data.draw(st.integers(0, 5)) == 0:
            gone = data.draw(st.sampled_from(here))
            dropped.add(gone)
            queue.scheduler.remove(gone)
        picked = queue.step()
        steps.update(picked)
        assert not {image.stream for image in picked} & dropped
        if not picked and not waiting:
            break
    for stream in set(queue.streams) - dropped:
        assert stream.num_begun == stream.num_images
        assert queue.scheduler.is_idle(stream)
    for image, num_steps in steps.items():
        assert image.stream in dropped or num_steps == len(image.stream.rows_per_step)


@given(
    num_rows=st.integers(4, 64),
    num_requests=st.integers(1, 9),
    interactive=st.booleans(),
    guided=st.sampled_from([(2,) * 5, (1,) * 5, (2, 1, 1)]),
)
@settings(deadline=None, max_examples=50)
def test_two_tenants_get_equal_rows_whatever_their_number_of_requests(
    num_rows: int, num_requests: int, interactive: bool, guided: tuple[int, ...]
) -> None:
    queue = Queue(num_rows)
    queue.add(Request("many", "0", interactive))
    queue.add(Request("one", "0", interactive, rows_per_step=guided))
    for i in range(1, num_requests):
        queue.add(Request("many", str(i), interactive))
    rows = queue.rows(100)
    assert abs(rows["many"] - rows["one"]) <= 4
    assert rows.total() >= 100 * (num_rows - 1)


def test_requests_of_one_tenant_get_equal_rows() -> None:
    queue = Queue(8)
    one, other = Request("a", "x", False), Request("a", "y", False)
    queue.add(*(Request("a", "x", False) for _ in range(5)), one, other)
    picked = Counter(image.stream.request_id for _ in range(60) for image in queue.step())
    assert abs(picked["x"] - picked["y"]) <= 2


@given(num_rows=st.integers(4, 128), num_bulk=st.integers(1, 6), num_quick=st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_interactive_goes_first_and_bulk_keeps_its_share(
    num_rows: int, num_bulk: int, num_quick: int
) -> None:
    queue = Queue(num_rows)
    queue.add(*(Request("bulk", str(i), False) for i in range(num_bulk)))
    queue.rows(5)
    queue.add(*(Request("quick", str(i), True) for i in range(num_quick)))
    share = max(2, num_rows // BULK_SHARE)
    for _ in range(20):
        rows = queue.rows(1)
        assert share - 1 <= rows["bulk"] <= share + 1
        assert rows["quick"] >= num_rows - share - 1


def test_what_interactive_leaves_bulk_takes_and_the_other_way_round() -> None:
    queue = Queue(16)
    queue.add(Request("quick", "q", True, num_images=2), Request("bulk", "b", False))
    assert queue.rows(1) == {"quick": 4, "bulk": 12}
    queue = Queue(16)
    queue.add(Request("quick", "q", True), Request("bulk", "b", False, num_images=0))
    assert queue.rows(1) == {"quick": 16}


def test_late_tenant_starts_level() -> None:
    queue = Queue(8)
    queue.add(Request("early", "x", False))
    queue.rows(500)
    queue.add(Request("late", "y", False))
    rows = queue.rows(40)
    assert abs(rows["early"] - rows["late"]) <= 4


def test_tenant_that_was_away_or_wanted_nothing_has_no_credit() -> None:
    queue = Queue(8)
    slow = Request("slow", "y", False)
    queue.add(Request("busy", "x", False), slow)
    queue.rows(10)
    slow.blocked = True
    queue.rows(500)
    slow.blocked = False
    rows = queue.rows(40)
    assert abs(rows["busy"] - rows["slow"]) <= 12
    queue.scheduler.remove(slow)
    queue.rows(500)
    queue.add(Request("slow", "z", False))
    rows = queue.rows(40)
    assert abs(rows["busy"] - rows["slow"]) <= 4


def test_request_that_wanted_nothing_has_no_credit_within_its_tenant() -> None:
    queue = Queue(8)
    slow = Request("a", "slow", False, blocked=True)
    queue.add(Request("a", "busy", False), slow)
    queue.rows(500)
    slow.blocked = False
    picked = Counter(image.stream.request_id for _ in range(40) for image in queue.step())
    assert abs(picked["busy"] - picked["slow"]) <= 6


def test_shards_of_a_request_go_in_order() -> None:
    queue = Queue(8)
    shards = [Request("a", "x", False, num_images=5) for _ in range(3)]
    queue.add(*shards, Request("b", "y", False))
    begun: list[int] = []
    for _ in range(60):
        for image in queue.step():
            if image.step == 1 and image.stream in shards:
                begun.append(shards.index(image.stream))
    assert begun == sorted(begun) and Counter(begun) == {0: 5, 1: 5, 2: 5}


def test_images_in_progress_go_before_new_ones_of_their_stream() -> None:
    queue = Queue(4)
    stream = Request("a", "x", False, rows_per_step=(2,) * 6)
    queue.add(stream)
    for _ in range(6):
        queue.step()
    assert stream.num_begun == 2 and not queue.scheduler.in_flight(stream)


def test_streams_that_another_thread_reads_may_come_and_go_meanwhile() -> None:
    scheduler = StepScheduler[Request, Image](8)
    first, second, third = (Request("t", name, False) for name in "abc")
    scheduler.add(first)
    scheduler.add(second)
    reading = iter(scheduler)
    assert next(reading) is first
    scheduler.add(third)
    scheduler.remove(first)
    assert list(reading) == [second]
    assert list(scheduler) == [second, third]


def test_a_stream_that_is_removed_gives_its_images_in_flight_and_may_come_again_first() -> None:
    queue = Queue(8)
    stream, other = Request("a", "x", False, num_images=2), Request("a", "x", False)
    queue.add(other, stream)
    other.blocked = True
    picked = queue.step()
    assert [image.stream for image in picked] == [stream, stream]
    assert list(queue.scheduler.remove(stream)) == picked
    assert not queue.scheduler.in_flight(stream) and list(queue.scheduler) == [other]
    stream.num_images, other.blocked = 3, False
    queue.scheduler.add_first(stream)
    assert list(queue.scheduler) == [stream, other]
    assert queue.step()[0].stream is stream
