"""Turns: batches that fit, interactive first, equal shares, no credit for having been idle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.engine.scheduler import BULK_SHARE, Turn, Turns, TurnStream


@dataclass(eq=False)
class Request(TurnStream):
    """A stream of images that each take ``rows_per_step``."""

    rows_per_step: tuple[int, ...] = field(default=(2, 2, 2), kw_only=True)
    num_images: int = field(default=10_000, kw_only=True)
    blocked: bool = field(default=False, kw_only=True)
    num_begun: int = field(default=0, kw_only=True)

    @property
    def idle(self) -> bool:
        return not self.turns and (self.blocked or self.num_begun == self.num_images)


class Queue:
    """Turns, advanced as the engine does it."""

    def __init__(self, num_rows: int, num_states: int = 10_000) -> None:
        self.turns, self.num_rows, self.num_states = Turns(num_rows), num_rows, num_states
        self.streams: list[Request] = []

    def add(self, *streams: Request) -> None:
        for stream in streams:
            self.turns.add(stream)
            self.streams.append(stream)

    def step(self) -> list[Turn]:
        picked = self.turns.pick(self._begin)
        assert len(set(picked)) == len(picked)
        assert sum(turn.num_rows for turn in picked) <= self.num_rows
        for turn in picked:
            assert not turn.done
            turn.step += 1
            if turn.done:
                turn.stream.turns.remove(turn)
        return picked

    def rows(self, num_steps: int) -> Counter[str]:
        """Rows that each tenant gets in so many steps."""
        rows: Counter[str] = Counter()
        for _ in range(num_steps):
            before = [(turn, turn.rows_per_step[turn.step - 1]) for turn in self.step()]
            for turn, num_rows in before:
                rows[turn.stream.tenant] += num_rows
        return rows

    def _begin(self, stream: TurnStream) -> Turn | None:
        assert isinstance(stream, Request)
        num_open = sum(len(other.turns) for other in self.streams)
        if stream.blocked or stream.num_begun == stream.num_images or num_open >= self.num_states:
            return None
        stream.num_begun += 1
        turn = Turn(stream, stream.rows_per_step)
        stream.turns.append(turn)
        return turn


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
    steps: Counter[Turn] = Counter()
    for _ in range(2_000):
        if waiting and data.draw(st.integers(0, 2)) == 0:
            queue.add(waiting.pop())
        here = [stream for stream in queue.streams if stream not in dropped]
        if here and len(dropped) < 2 and data.draw(st.integers(0, 5)) == 0:
            gone = data.draw(st.sampled_from(here))
            dropped.add(gone)
            gone.turns.clear()
            queue.turns.remove(gone)
        picked = queue.step()
        steps.update(picked)
        assert not {turn.stream for turn in picked} & dropped
        if not picked and not waiting:
            break
    for stream in set(queue.streams) - dropped:
        assert stream.num_begun == stream.num_images
        assert not stream.turns
    for turn, num_steps in steps.items():
        assert turn.stream in dropped or num_steps == len(turn.rows_per_step)


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
    picked = Counter(turn.stream.request_id for _ in range(60) for turn in queue.step())
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
    slow.blocked = True  # its reader takes nothing
    queue.rows(500)
    slow.blocked = False
    rows = queue.rows(40)
    assert abs(rows["busy"] - rows["slow"]) <= 12
    queue.turns.remove(slow)
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
    picked = Counter(turn.stream.request_id for _ in range(40) for turn in queue.step())
    assert abs(picked["busy"] - picked["slow"]) <= 6


def test_shards_of_a_request_go_in_order() -> None:
    queue = Queue(8)
    shards = [Request("a", "x", False, num_images=5) for _ in range(3)]
    queue.add(*shards, Request("b", "y", False))
    begun: list[int] = []
    for _ in range(60):
        for turn in queue.step():
            if turn.step == 1 and turn.stream in shards:
                begun.append(shards.index(turn.stream))  # type: ignore[arg-type]
    assert begun == sorted(begun) and Counter(begun) == {0: 5, 1: 5, 2: 5}


def test_images_in_progress_go_before_new_ones_of_their_stream() -> None:
    queue = Queue(4)
    stream = Request("a", "x", False, rows_per_step=(2,) * 6)
    queue.add(stream)
    for _ in range(6):
        queue.step()
    assert stream.num_begun == 2 and not stream.turns


def test_streams_that_another_thread_reads_may_come_and_go_meanwhile() -> None:
    turns = Turns(8)
    first, second, third = (Request("t", name, False) for name in "abc")
    turns.add(first)
    turns.add(second)
    reading = iter(turns)
    assert next(reading) is first
    turns.add(third)
    turns.remove(first)
    assert list(reading) == [second]
    assert list(turns) == [second, third]
