"""The adapter bank: who was used least recently gives way, who is in use stays, misfits fail."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from services.common.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from services.common.models.diffusion_bases import Base, load_pipeline
from services.common.models.lora import LoraSpec
from services.generator.engine import adapter_cache
from services.generator.engine.adapter_cache import AdapterBank, Weights
from services.generator.engine.batched_lora import MixedLora
from services.generator.engine.row_tables import EMPTY
from tests.support import fakes
from tests.support.studio import CLASSES, EVERYTHING, Studio, bytes_of, make_lora, orders_of

SPEC = LoraSpec(rank=4, alpha=4.0)


@pytest.fixture(scope="module")
def lora_bytes(base: Base) -> bytes:
    return make_lora(base, SPEC, seed=1)


class Shelf:
    """A bank that counts what it reads."""

    def __init__(self, base: Base, data: bytes, memory_bytes: int) -> None:
        pipeline = load_pipeline(base)
        self.lora = MixedLora(pipeline.unet, 4, fakes.NUM_TOKENS)
        self.woken = threading.Event()
        self.bank = AdapterBank(pipeline, self.lora, memory_bytes, self.woken.set)
        self.data, self.reads = data, list[str]()
        self.trouble: dict[str, Exception] = {}

    def weights(self, key: str, class_ids: tuple[str, ...] = CLASSES) -> Weights:
        return Weights(key, class_ids, lambda: self._read(key))

    def load(self, weights: Weights) -> None:
        """Want and wait for it."""
        self.woken.clear()
        self.bank.want(weights)
        assert self.woken.wait(30)
        self.bank.settle()

    def settle_until(self, condition: Callable[[], bool]) -> None:
        """As the engine does, in between its steps."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)
            self.bank.settle()

    @property
    def num_bytes(self) -> int:
        """What is loaded takes, measured."""
        return self.lora.adapters.num_bytes + self.lora.prompts.num_bytes

    def use(self, key: str) -> bool:
        """Use once, loading first where needed, and release; says whether it was there."""
        weights = self.weights(key)
        there = self.bank.use(weights, CLASSES[0]) is not None
        if not there:
            self.load(weights)
            assert self.bank.use(weights, CLASSES[0]) is not None
        self.bank.release(weights)
        return there

    def _read(self, key: str) -> bytes:
        self.reads.append(key)
        if key in self.trouble:
            raise self.trouble.pop(key)
        return self.data


@pytest.fixture
def shelf(base: Base, lora_bytes: bytes) -> Iterator[Shelf]:
    shelf = Shelf(base, lora_bytes, 2 * bytes_of(base, lora_bytes))
    yield shelf
    shelf.bank.close()


def test_least_recently_used_gives_way(shelf: Shelf) -> None:
    there = [shelf.use(key) for key in ("a", "b", "a", "c", "a", "b")]
    assert there == [False, False, True, False, True, False]
    assert shelf.reads == ["a", "b", "c", "b"]


def test_wanting_twice_loads_once(shelf: Shelf) -> None:
    shelf.bank.want(shelf.weights("a"))
    shelf.load(shelf.weights("a"))
    shelf.bank.want(shelf.weights("a"))
    assert shelf.reads == ["a"]


def test_entries_in_use_are_never_given_up(shelf: Shelf) -> None:
    for key in ("a", "b"):
        shelf.load(shelf.weights(key))
    used = {key: shelf.bank.use(shelf.weights(key), CLASSES[0]) for key in ("a", "b")}
    shelf.load(shelf.weights("c"))
    assert shelf.bank.use(shelf.weights("c"), CLASSES[0]) is None, "there is no room"
    again = {key: shelf.bank.use(shelf.weights(key), CLASSES[0]) for key in ("a", "b")}
    assert again == used and None not in used.values()
    for _ in range(2):
        shelf.bank.release(shelf.weights("b"))
    shelf.bank.settle()
    taken = shelf.bank.use(shelf.weights("c"), CLASSES[0])
    assert taken is not None and used["a"] is not None
    assert set(shelf.lora.adapters.filled) == {taken[0].adapter, used["a"][0].adapter}
    assert shelf.bank.use(shelf.weights("a"), CLASSES[0]) == used["a"]
    assert shelf.bank.use(shelf.weights("b"), CLASSES[0]) is None


def test_who_has_been_there_longest_takes_no_more_users_when_others_wait(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b"):
        shelf.load(shelf.weights(key))
        shelf.bank.use(shelf.weights(key), CLASSES[0])
    shelf.load(shelf.weights("c"))
    assert shelf.bank.use(shelf.weights("a"), CLASSES[0]), "not before it had its time"
    monkeypatch.setattr(adapter_cache, "LEAST_SECONDS", 0.0)
    shelf.bank.settle()
    assert shelf.bank.use(shelf.weights("a"), CLASSES[0]) is None
    assert shelf.bank.use(shelf.weights("b"), CLASSES[0])
    for _ in range(2):
        shelf.bank.release(shelf.weights("a"))
    shelf.bank.settle()
    assert shelf.bank.use(shelf.weights("c"), CLASSES[0])


def test_who_was_asked_to_leave_stays_if_room_comes_otherwise(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "LEAST_SECONDS", 0.0)
    for key in ("a", "b"):
        shelf.load(shelf.weights(key))
        shelf.bank.use(shelf.weights(key), CLASSES[0])
    shelf.load(shelf.weights("c"))
    assert shelf.bank.use(shelf.weights("a"), CLASSES[0]) is None
    shelf.bank.release(shelf.weights("b"))
    shelf.bank.settle()
    assert shelf.bank.use(shelf.weights("c"), CLASSES[0])
    assert shelf.bank.use(shelf.weights("a"), CLASSES[0])


def test_the_base_alone_takes_prompts_and_no_adapter(shelf: Shelf) -> None:
    weights = [Weights(class_id, (class_id,)) for class_id in CLASSES]
    for one, class_id in zip(weights, CLASSES, strict=True):
        shelf.load(one)
        used = shelf.bank.use(one, class_id)
        assert used is not None
        assert used[0].adapter == used[1].adapter == EMPTY
        assert used[0].prompt != used[1].prompt
        shelf.bank.release(one)
    assert shelf.num_bytes == shelf.lora.prompts.num_bytes > 0
    assert not shelf.use("a") and not shelf.use("b")
    assert shelf.use("a") and shelf.use("b")


def test_more_classes_than_fit_are_refused(base: Base, lora_bytes: bytes) -> None:
    shelf = Shelf(base, lora_bytes, bytes_of(base, lora_bytes, num_classes=2))
    many = shelf.weights("a", ("basophil", "monocyte", "myeloblast"))
    shelf.load(many)
    failure = shelf.bank.failure(many)
    assert isinstance(failure, FailedPrecondition) and "3 classes" in failure.message
    assert "ADAPTER_MEMORY_MB" in failure.message
    assert not shelf.use("b"), "two classes and the empty prompt fit"


def test_what_is_loaded_stays_within_the_budget_whatever_its_rank(
    base: Base, lora_bytes: bytes
) -> None:
    ranks = {
        f"{rank}": make_lora(base, LoraSpec(rank, 8.0, EVERYTHING), seed=rank)
        for rank in (4, 40, 120, 24, 100)
    }
    sizes = {key: bytes_of(base, data) for key, data in ranks.items()}
    assert max(sizes.values()) > 4 * min(sizes.values())
    budget = sizes["120"] + sizes["24"]
    shelf = Shelf(base, lora_bytes, budget)
    for key in ["4", "40", "120", "24", "4", "100", "40", "120", "24"]:
        shelf.data = ranks[key]
        shelf.use(key)
        assert sizes[key] <= shelf.num_bytes <= budget
    assert shelf.use("120") and shelf.use("24"), "they fill it to the last byte"
    assert shelf.num_bytes == budget
    over = Shelf(base, ranks["120"], sizes["120"] - 1)
    weights = over.weights("a")
    over.load(weights)
    assert isinstance(over.bank.failure(weights), FailedPrecondition)
    assert over.num_bytes == 0


def test_few_are_read_ahead_of_the_room_for_them(shelf: Shelf) -> None:
    used = [shelf.weights(key) for key in "ab"]
    for weights in used:
        shelf.load(weights)
        assert shelf.bank.use(weights, CLASSES[0])
    waiting = [shelf.weights(f"{i}") for i in range(adapter_cache.MOST_LOADING + 3)]
    for weights in waiting:
        assert shelf.bank.want(weights)
    assert not any(shelf.bank.want(weights) for weights in waiting), "once each"
    most = 2 + adapter_cache.MOST_LOADING
    shelf.settle_until(lambda: len(shelf.reads) == most)
    time.sleep(0.1)
    shelf.bank.settle()
    assert len(shelf.reads) == most
    shelf.bank.release(used[0])
    for weights in waiting:
        shelf.settle_until(lambda w=weights: shelf.bank.use(w, CLASSES[0]) is not None)
        shelf.bank.release(weights)
    assert shelf.reads[2:] == [weights.key for weights in waiting], "who came first, first"


@pytest.mark.parametrize("bad", [b"", b"not safetensors", "truncated"])
def test_misfit_is_data_loss_once_and_a_retry_loads_again(
    shelf: Shelf, lora_bytes: bytes, bad: bytes | str
) -> None:
    shelf.data = lora_bytes[:-8] if isinstance(bad, str) else bad
    weights = shelf.weights("a")
    shelf.load(weights)
    assert shelf.bank.use(weights, CLASSES[0]) is None
    assert isinstance(shelf.bank.failure(weights), DataLoss)
    assert shelf.bank.failure(weights) is None
    shelf.data = lora_bytes
    assert not shelf.use("a") and shelf.use("a")
    assert shelf.reads == ["a", "a"]


def test_what_the_store_raises_reaches_the_stream_and_not_the_engine(shelf: Shelf) -> None:
    shelf.trouble = {"a": NotFound("adapters/a"), "b": ConnectionError("10.0.0.1 is away")}
    for key, kind in (("a", NotFound), ("b", Unavailable)):
        weights = shelf.weights(key)
        shelf.load(weights)
        failure = shelf.bank.failure(weights)
        assert isinstance(failure, kind) and "10.0.0.1" not in failure.message
        assert not shelf.use(key)


def test_a_failure_is_told_to_who_began_the_load_and_others_try_again(shelf: Shelf) -> None:
    first, later = shelf.weights("a"), shelf.weights("a")
    shelf.trouble = {"a": NotFound("adapters/a")}
    shelf.load(first)
    assert first == later and shelf.bank.failure(later) is None
    shelf.trouble = {"a": Unavailable("away")}
    shelf.load(later)
    assert isinstance(shelf.bank.failure(later), Unavailable)
    assert isinstance(shelf.bank.failure(first), NotFound)
    assert shelf.bank.failure(later) is None and shelf.bank.failure(first) is None
    assert shelf.reads == ["a", "a"]


def test_a_failure_is_forgotten_once_another_has_loaded_the_same_weights(shelf: Shelf) -> None:
    first = shelf.weights("a")
    shelf.trouble = {"a": NotFound("adapters/a")}
    shelf.load(first)
    assert not shelf.use("a") and shelf.reads == ["a", "a"]
    assert shelf.bank.use(first, CLASSES[0]) is not None
    assert shelf.bank.failure(first) is None


def test_failures_that_nobody_asks_for_are_bounded_and_the_latest_are_kept(shelf: Shelf) -> None:
    many = [shelf.weights(f"{i}") for i in range(adapter_cache.MOST_FAILURES + 3)]
    shelf.trouble = {weights.key: NotFound(f"adapters/{weights.key}") for weights in many}
    for weights in many:
        shelf.load(weights)
    failures = [shelf.bank.failure(weights) for weights in many]
    assert failures[:3] == [None] * 3
    assert [str(failure) for failure in failures[3:]] == [
        str(NotFound(f"adapters/{weights.key}")) for weights in many[3:]
    ]


def test_a_load_that_fails_after_its_stream_was_cancelled_does_not_fail_later_streams(
    base: Base, lora_bytes: bytes
) -> None:
    studio, reads = Studio(base), list[str]()
    reading, may_fail = threading.Event(), threading.Event()

    def read() -> bytes:
        reads.append("a")
        if len(reads) > 1:
            return lora_bytes
        reading.set()
        assert may_fail.wait(30)
        raise NotFound("adapters/a")

    cancelled, reader = studio.stream(orders_of(Weights("a", CLASSES, read), 2))
    studio.engine.submit(cancelled)
    assert reading.wait(30)
    studio.engine.cancel(cancelled)
    studio.settle()
    may_fail.set()
    assert len(studio.submit(orders_of(Weights("a", CLASSES, read), 2)).wait()) == 2
    assert not reader.errors and reads == ["a", "a"]
    assert studio.leaks() == (0, 0, 0)
    studio.engine.close()


def test_loading_does_not_stop_other_images(base: Base, lora_bytes: bytes) -> None:
    studio = Studio(base)
    may_read, readers = threading.Event(), list[str]()

    def read() -> bytes:
        readers.append(threading.current_thread().name)
        assert may_read.wait(30)
        return lora_bytes

    there = Weights(CLASSES[0], CLASSES[:1])
    studio.submit(orders_of(there, 1)).wait()
    slow = studio.submit(orders_of(Weights("slow", CLASSES, read), 2))
    assert len(studio.submit(orders_of(there, 5)).wait()) == 5
    assert readers and not slow.over.is_set(), "drawn while an adapter was being read"
    may_read.set()
    assert len(slow.wait()) == 2
    assert "engine" not in readers
    studio.engine.close()


@pytest.mark.parametrize("interactive", [True, False])
def test_a_failure_reaches_its_own_stream_and_a_retry_draws(
    base: Base, lora_bytes: bytes, interactive: bool
) -> None:
    studio, reads, away = Studio(base), Counter[str](), {"bad"}

    def read(key: str) -> bytes:
        reads[key] += 1
        if key in away:
            raise NotFound("adapters/bad")
        return lora_bytes

    good, bad = (Weights(key, CLASSES, lambda key=key: read(key)) for key in ("good", "bad"))
    readers = [
        studio.submit(orders_of(weights, 2), interactive=interactive, request_id=str(i))
        for i, weights in enumerate((bad, good, bad))
    ]
    for reader in (readers[0], readers[2]):
        with pytest.raises(NotFound):
            reader.wait()
    assert len(readers[1].wait()) == 2
    assert studio.leaks() == (0, 0, 0)
    assert reads["bad"] == 2, "one attempt for each request"
    away.clear()
    assert len(studio.submit(orders_of(bad, 2), interactive=interactive).wait()) == 2
    assert [len(reader.errors) for reader in readers] == [1, 0, 1]
    studio.engine.close()


def test_more_adapters_at_once_than_fit_all_draw_and_none_waits_for_the_longest(
    base: Base, lora_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "LEAST_SECONDS", 0.05)
    studio = Studio(base, memory_bytes=2 * bytes_of(base, lora_bytes))
    long = [
        studio.submit(
            orders_of(Weights(f"long{i}", CLASSES, lambda: lora_bytes), 10_000),
            request_id=f"long{i}",
        )
        for i in range(2)
    ]
    short = [
        studio.submit(orders_of(Weights(f"{i}", CLASSES, lambda: lora_bytes), 2), request_id=f"{i}")
        for i in range(5)
    ]
    for reader in short:
        assert len(reader.wait()) == 2
    assert not any(reader.over.is_set() for reader in long)
    studio.engine.close()
