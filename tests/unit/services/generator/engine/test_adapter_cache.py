"""Adapter cache: LRU eviction, entries in use stay, misfits fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from services.common.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from services.common.models.diffusion_bases import Base, load_pipeline
from services.common.models.lora import LoraSpec
from services.generator.engine import adapter_cache
from services.generator.engine.adapter_cache import AdapterCache, Weights
from services.generator.engine.batched_lora import BatchedLora
from services.generator.engine.row_tables import EMPTY
from tests.support import fakes
from tests.support.studio import CLASSES, EVERYTHING, bytes_of, make_lora

SPEC = LoraSpec(rank=4, alpha=4.0)


@pytest.fixture(scope="module")
def lora_bytes(base: Base) -> bytes:
    return make_lora(base, SPEC, seed=1)


class Shelf:
    """A cache that counts what it reads."""

    def __init__(self, base: Base, data: bytes, memory_bytes: int) -> None:
        pipeline = load_pipeline(base)
        self.lora = BatchedLora(pipeline.unet, 4, fakes.NUM_TOKENS)
        self.woken = threading.Event()
        self.cache = AdapterCache(pipeline, self.lora, memory_bytes, self.woken.set)
        self.data, self.reads = data, list[str]()
        self.trouble: dict[str, Exception] = {}

    def weights(self, key: str, class_ids: tuple[str, ...] = CLASSES) -> Weights:
        return Weights(key, class_ids, lambda: self._read(key))

    def load(self, weights: Weights) -> None:
        """Load and wait for it."""
        self.woken.clear()
        self.cache.load(weights)
        assert self.woken.wait(30)
        self.cache.install_loaded()

    def settle_until(self, condition: Callable[[], bool]) -> None:
        """As the engine does, in between its steps."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)
            self.cache.install_loaded()

    @property
    def num_bytes(self) -> int:
        """Memory of what is loaded, measured."""
        return self.lora.adapters.num_bytes + self.lora.prompts.num_bytes

    def use(self, key: str) -> bool:
        """Acquire, loading where needed, and release; says whether it was there."""
        weights = self.weights(key)
        there = self.cache.acquire(weights, CLASSES[0]) is not None
        if not there:
            self.load(weights)
            assert self.cache.acquire(weights, CLASSES[0]) is not None
        self.cache.release(weights)
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
    shelf.cache.close()


def test_least_recently_used_is_evicted(shelf: Shelf) -> None:
    there = [shelf.use(key) for key in ("a", "b", "a", "c", "a", "b")]
    assert there == [False, False, True, False, True, False]
    assert shelf.reads == ["a", "b", "c", "b"]


def test_loading_twice_reads_once(shelf: Shelf) -> None:
    shelf.cache.load(shelf.weights("a"))
    shelf.load(shelf.weights("a"))
    shelf.cache.load(shelf.weights("a"))
    assert shelf.reads == ["a"]


def test_entries_in_use_are_never_evicted(shelf: Shelf) -> None:
    for key in ("a", "b"):
        shelf.load(shelf.weights(key))
    used = {key: shelf.cache.acquire(shelf.weights(key), CLASSES[0]) for key in ("a", "b")}
    shelf.load(shelf.weights("c"))
    assert shelf.cache.acquire(shelf.weights("c"), CLASSES[0]) is None, "there is no room"
    again = {key: shelf.cache.acquire(shelf.weights(key), CLASSES[0]) for key in ("a", "b")}
    assert again == used and None not in used.values()
    for _ in range(2):
        shelf.cache.release(shelf.weights("b"))
    shelf.cache.install_loaded()
    taken = shelf.cache.acquire(shelf.weights("c"), CLASSES[0])
    assert taken is not None and used["a"] is not None
    assert set(shelf.lora.adapters.filled) == {taken[0].adapter, used["a"][0].adapter}
    assert shelf.cache.acquire(shelf.weights("a"), CLASSES[0]) == used["a"]
    assert shelf.cache.acquire(shelf.weights("b"), CLASSES[0]) is None


def test_the_oldest_entry_takes_no_more_references_when_others_wait(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b"):
        shelf.load(shelf.weights(key))
        shelf.cache.acquire(shelf.weights(key), CLASSES[0])
    shelf.load(shelf.weights("c"))
    assert shelf.cache.acquire(shelf.weights("a"), CLASSES[0]), "not before it had its time"
    monkeypatch.setattr(adapter_cache, "MIN_RESIDENT_SECONDS", 0.0)
    shelf.cache.install_loaded()
    assert shelf.cache.acquire(shelf.weights("a"), CLASSES[0]) is None
    assert shelf.cache.acquire(shelf.weights("b"), CLASSES[0])
    for _ in range(2):
        shelf.cache.release(shelf.weights("a"))
    shelf.cache.install_loaded()
    assert shelf.cache.acquire(shelf.weights("c"), CLASSES[0])


def test_an_entry_that_is_being_evicted_stays_if_room_comes_otherwise(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "MIN_RESIDENT_SECONDS", 0.0)
    for key in ("a", "b"):
        shelf.load(shelf.weights(key))
        shelf.cache.acquire(shelf.weights(key), CLASSES[0])
    shelf.load(shelf.weights("c"))
    assert shelf.cache.acquire(shelf.weights("a"), CLASSES[0]) is None
    shelf.cache.release(shelf.weights("b"))
    shelf.cache.install_loaded()
    assert shelf.cache.acquire(shelf.weights("c"), CLASSES[0])
    assert shelf.cache.acquire(shelf.weights("a"), CLASSES[0])


def test_the_base_alone_takes_prompts_and_no_adapter(shelf: Shelf) -> None:
    weights = [Weights(class_id, (class_id,)) for class_id in CLASSES]
    for one, class_id in zip(weights, CLASSES, strict=True):
        shelf.load(one)
        used = shelf.cache.acquire(one, class_id)
        assert used is not None
        assert used[0].adapter == used[1].adapter == EMPTY
        assert used[0].prompt != used[1].prompt
        shelf.cache.release(one)
    assert shelf.num_bytes == shelf.lora.prompts.num_bytes > 0
    assert not shelf.use("a") and not shelf.use("b")
    assert shelf.use("a") and shelf.use("b")


def test_more_classes_than_fit_are_refused(base: Base, lora_bytes: bytes) -> None:
    shelf = Shelf(base, lora_bytes, bytes_of(base, lora_bytes, num_classes=2))
    many = shelf.weights("a", ("basophil", "monocyte", "myeloblast"))
    shelf.load(many)
    failure = shelf.cache.failure(many)
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
    assert isinstance(over.cache.failure(weights), FailedPrecondition)
    assert over.num_bytes == 0


def test_few_are_read_ahead_of_the_room_for_them(shelf: Shelf) -> None:
    used = [shelf.weights(key) for key in "ab"]
    for weights in used:
        shelf.load(weights)
        assert shelf.cache.acquire(weights, CLASSES[0])
    waiting = [shelf.weights(f"{i}") for i in range(adapter_cache.MAX_LOADING + 3)]
    for weights in waiting:
        assert shelf.cache.load(weights)
    assert not any(shelf.cache.load(weights) for weights in waiting), "once each"
    most = 2 + adapter_cache.MAX_LOADING
    shelf.settle_until(lambda: len(shelf.reads) == most)
    time.sleep(0.1)
    shelf.cache.install_loaded()
    assert len(shelf.reads) == most
    shelf.cache.release(used[0])
    for weights in waiting:
        shelf.settle_until(lambda w=weights: shelf.cache.acquire(w, CLASSES[0]) is not None)
        shelf.cache.release(weights)
    assert shelf.reads[2:] == [weights.key for weights in waiting], "who came first, first"


@pytest.mark.parametrize("bad", [b"", b"not safetensors", "truncated"])
def test_misfit_is_data_loss_once_and_a_retry_loads_again(
    shelf: Shelf, lora_bytes: bytes, bad: bytes | str
) -> None:
    shelf.data = lora_bytes[:-8] if isinstance(bad, str) else bad
    weights = shelf.weights("a")
    shelf.load(weights)
    assert shelf.cache.acquire(weights, CLASSES[0]) is None
    assert isinstance(shelf.cache.failure(weights), DataLoss)
    assert shelf.cache.failure(weights) is None
    shelf.data = lora_bytes
    assert not shelf.use("a") and shelf.use("a")
    assert shelf.reads == ["a", "a"]


def test_what_the_store_raises_reaches_the_stream_and_not_the_engine(shelf: Shelf) -> None:
    shelf.trouble = {"a": NotFound("adapters/a"), "b": ConnectionError("10.0.0.1 is away")}
    for key, kind in (("a", NotFound), ("b", Unavailable)):
        weights = shelf.weights(key)
        shelf.load(weights)
        failure = shelf.cache.failure(weights)
        assert isinstance(failure, kind) and "10.0.0.1" not in failure.message
        assert not shelf.use(key)


def test_a_failure_reaches_the_one_who_began_the_load_and_others_try_again(shelf: Shelf) -> None:
    first, later = shelf.weights("a"), shelf.weights("a")
    shelf.trouble = {"a": NotFound("adapters/a")}
    shelf.load(first)
    assert first == later and shelf.cache.failure(later) is None
    shelf.trouble = {"a": Unavailable("away")}
    shelf.load(later)
    assert isinstance(shelf.cache.failure(later), Unavailable)
    assert isinstance(shelf.cache.failure(first), NotFound)
    assert shelf.cache.failure(later) is None and shelf.cache.failure(first) is None
    assert shelf.reads == ["a", "a"]


def test_a_failure_is_forgotten_once_another_has_loaded_the_same_weights(shelf: Shelf) -> None:
    first = shelf.weights("a")
    shelf.trouble = {"a": NotFound("adapters/a")}
    shelf.load(first)
    assert not shelf.use("a") and shelf.reads == ["a", "a"]
    assert shelf.cache.acquire(first, CLASSES[0]) is not None
    assert shelf.cache.failure(first) is None


def test_failures_without_a_reader_are_bounded_and_the_latest_are_kept(shelf: Shelf) -> None:
    many = [shelf.weights(f"{i}") for i in range(adapter_cache.MAX_FAILURES + 3)]
    shelf.trouble = {weights.key: NotFound(f"adapters/{weights.key}") for weights in many}
    for weights in many:
        shelf.load(weights)
    failures = [shelf.cache.failure(weights) for weights in many]
    assert failures[:3] == [None] * 3
    assert [str(failure) for failure in failures[3:]] == [
        str(NotFound(f"adapters/{weights.key}")) for weights in many[3:]
    ]
