"""The engine and its adapter cache: loading delays no other image."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from services.common.errors import NotFound
from services.common.models.diffusion_bases import Base
from services.common.models.lora import LoraSpec
from services.generator.engine import adapter_cache
from services.generator.engine.adapter_cache import Weights
from tests.support.studio import CLASSES, Studio, bytes_of, make_lora, tasks_of

SPEC = LoraSpec(rank=4, alpha=4.0)


@pytest.fixture(scope="module")
def lora_bytes(base: Base) -> bytes:
    return make_lora(base, SPEC, seed=1)


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

    cancelled, reader = studio.stream(tasks_of(Weights("a", CLASSES, read), 2))
    studio.engine.submit(cancelled)
    assert reading.wait(30)
    studio.engine.cancel(cancelled)
    studio.settle()
    may_fail.set()
    assert len(studio.submit(tasks_of(Weights("a", CLASSES, read), 2)).wait()) == 2
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
    studio.submit(tasks_of(there, 1)).wait()
    slow = studio.submit(tasks_of(Weights("slow", CLASSES, read), 2))
    assert len(studio.submit(tasks_of(there, 5)).wait()) == 5
    assert readers and not slow.over.is_set(), "sampled while an adapter was being read"
    may_read.set()
    assert len(slow.wait()) == 2
    assert "engine" not in readers
    studio.engine.close()


@pytest.mark.parametrize("interactive", [True, False])
def test_a_failure_reaches_its_own_stream_and_a_retry_succeeds(
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
        studio.submit(tasks_of(weights, 2), interactive=interactive, request_id=str(i))
        for i, weights in enumerate((bad, good, bad))
    ]
    for reader in (readers[0], readers[2]):
        with pytest.raises(NotFound):
            reader.wait()
    assert len(readers[1].wait()) == 2
    assert studio.leaks() == (0, 0, 0)
    assert reads["bad"] == 2, "one attempt for each request"
    away.clear()
    assert len(studio.submit(tasks_of(bad, 2), interactive=interactive).wait()) == 2
    assert [len(reader.errors) for reader in readers] == [1, 0, 1]
    studio.engine.close()


def test_more_adapters_at_once_than_fit_all_come_and_none_waits_for_the_longest(
    base: Base, lora_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "MIN_RESIDENT_SECONDS", 0.05)
    studio = Studio(base, memory_bytes=2 * bytes_of(base, lora_bytes))
    long = [
        studio.submit(
            tasks_of(Weights(f"long{i}", CLASSES, lambda: lora_bytes), 10_000),
            request_id=f"long{i}",
        )
        for i in range(2)
    ]
    short = [
        studio.submit(tasks_of(Weights(f"{i}", CLASSES, lambda: lora_bytes), 2), request_id=f"{i}")
        for i in range(5)
    ]
    for reader in short:
        assert len(reader.wait()) == 2
    assert not any(reader.over.is_set() for reader in long)
    studio.engine.close()
