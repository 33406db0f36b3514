"""Engine: nothing leaks; bad images and broken steps end their streams."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from services.common.errors import FailedPrecondition, Unavailable
from services.common.models.diffusion_bases import Base
from services.common.models.lora import LoraSpec
from services.generator.engine.adapter_cache import Weights
from services.generator.engine.engine import ImageStream, ImageTask
from services.generator.presets import SamplerSettings
from tests.support.studio import CLASSES, EVERYTHING, Studio, make_lora, tasks_of, weights_of

ADAPTERS = ("attention", "everything")
BASE_ALONE = Weights(CLASSES[0], CLASSES[:1])
LONG = SamplerSettings(200, 2.0, "ddim")


@pytest.fixture(scope="module")
def loras(base: Base) -> dict[str, bytes]:
    specs = (LoraSpec(4, 4.0), LoraSpec(4, 4.0, EVERYTHING))
    return {key: make_lora(base, spec, 1) for key, spec in zip(ADAPTERS, specs, strict=True)}


@pytest.fixture
def studio(base: Base) -> Iterator[Studio]:
    studio = Studio(base)
    yield studio
    studio.engine.close()


def test_streams_that_are_done_leave_nothing(studio: Studio, loras: dict[str, bytes]) -> None:
    readers = [
        studio.submit(tasks_of(weights_of(key, loras), 3), interactive=key is None)
        for key in (None, *ADAPTERS)
    ]
    assert [sorted(reader.wait()) for reader in readers] == [[0, 1, 2]] * 3
    assert studio.leaks() == (0, 0, 0)
    assert studio.engine.backlog.total() == 0
    assert sum(record.num_images_finished for record in studio.records) == 9
    assert sum(record.num_rows for record in studio.records) == 9 * 3 * 2
    assert all(record.num_rows <= record.num_rows_padded <= 8 for record in studio.records[:-1])


def test_no_leak_after_random_submits_and_cancels(studio: Studio, loras: dict[str, bytes]) -> None:
    chance, streams = random.Random(5), list[ImageStream]()
    for number in range(200):
        if streams and chance.random() < 0.5:
            studio.engine.cancel(chance.choice(streams))
            continue
        stream, _ = studio.stream(
            tasks_of(weights_of(chance.choice([None, *ADAPTERS]), loras), chance.randint(1, 4)),
            SamplerSettings(chance.randint(1, 6), chance.choice([1.0, 2.0]), "ddim"),
            tenant=chance.choice("ab"),
            request_id=str(number),
            interactive=chance.random() < 0.5,
        )
        streams.append(stream)
        studio.engine.submit(stream)
        if chance.random() < 0.3:
            studio.settle()
    for stream in streams:
        studio.engine.cancel(stream)
        studio.engine.cancel(stream)
    assert studio.leaks() == (0, 0, 0)
    assert studio.engine.broken is None
    assert len(studio.submit(tasks_of(BASE_ALONE, 20)).wait()) == 20
    assert studio.leaks() == (0, 0, 0)


def test_bulk_work_waits_for_another_engine_s_interactive_work(base: Base) -> None:
    hurry = threading.Event()
    studio = Studio(base, interactive_elsewhere=hurry.is_set)
    stream, _ = studio.stream(tasks_of(BASE_ALONE, 50), LONG)
    studio.engine.submit(stream)

    def steps_in_a_while() -> int:
        before = len(studio.records)
        time.sleep(1.0)
        return len(studio.records) - before

    try:
        steps_in_a_while()
        alone = steps_in_a_while()
        hurry.set()
        beside = steps_in_a_while()
        assert 0 < beside < alone / 2  # a fifth, in theory: it goes on, and is never starved
        assert studio.engine.has_interactive_work is False
        mine = studio.submit(tasks_of(BASE_ALONE, 1), request_id="mine", interactive=True)
        assert len(mine.wait()) == 1
        studio.engine.cancel(stream)
        assert studio.leaks() == (0, 0, 0)
    finally:
        studio.engine.close()


def test_engine_knows_of_its_interactive_work(studio: Studio) -> None:
    stream, reader = studio.stream(tasks_of(BASE_ALONE, 2), LONG, interactive=True)
    studio.engine.submit(stream)
    while not studio.records:
        studio.settle()
    assert studio.engine.has_interactive_work
    assert len(reader.wait()) == 2
    studio.settle()
    assert not studio.engine.has_interactive_work


def test_cancel_frees_states_and_references_before_the_next_step(
    studio: Studio, loras: dict[str, bytes]
) -> None:
    stream, reader = studio.stream(tasks_of(weights_of("attention", loras), 50), LONG)
    studio.engine.submit(stream)
    while not studio.records:
        studio.settle()
    assert studio.leaks() != (0, 0, 0)
    studio.engine.cancel(stream)
    assert studio.leaks() == (0, 0, 0)
    assert studio.engine.backlog.total() == 0
    num_steps = len(studio.records)
    studio.settle()
    assert len(studio.records) == num_steps
    assert not reader.images and not reader.errors


def test_bulk_work_leaves_states_to_interactive_work(studio: Studio) -> None:
    bulk, _ = studio.stream(tasks_of(BASE_ALONE, 1000), LONG)
    studio.engine.submit(bulk)
    quick = studio.submit(tasks_of(BASE_ALONE, 4), interactive=True)
    assert len(quick.wait()) == 4
    assert 0 < len(studio.engine._scheduler.in_flight(bulk)) <= studio.num_states // 2


def test_images_that_are_not_finite_fail_only_their_stream(
    studio: Studio, base: Base, loras: dict[str, bytes]
) -> None:
    loras = loras | {"nan": make_lora(base, LoraSpec(40, 40.0, EVERYTHING), 1, float("nan"))}
    expected = studio.submit(tasks_of(BASE_ALONE, 16)).wait()
    for _ in range(3):
        bad = studio.submit(tasks_of(weights_of("nan", loras), 12), request_id="bad")
        good = [
            studio.submit(tasks_of(weights_of(key, loras), 8), request_id=str(key))
            for key in (None, "everything")
        ]
        with pytest.raises(FailedPrecondition, match="not finite"):
            bad.wait()
        assert len(good[1].wait()) == 8
        images = good[0].wait()
        assert all((images[i] == expected[i]).all() for i in range(8))
        assert len(bad.errors) == 1 and not bad.images
    assert studio.leaks() == (0, 0, 0)
    assert sum(r.tally.not_finite.total() for r in studio.records) == 3, "one a stream"
    again = studio.submit(tasks_of(BASE_ALONE, 16)).wait()
    assert all((again[i] == expected[i]).all() for i in range(16)), "in any state, used before"


def test_an_image_that_is_withheld_is_sampled_again(studio: Studio) -> None:
    tasks = tasks_of(BASE_ALONE, 6)
    stream, reader = studio.stream(tasks)
    withheld = list[ImageTask]()

    def deliver(task: ImageTask, image: np.ndarray) -> None:
        if task.attempt < 2:
            withheld.append(task)
            again = replace(task, image_seed=task.image_seed + 100, attempt=task.attempt + 1)
            studio.engine.withhold(stream, again)
        else:
            reader.deliver(task, image)

    stream.deliver = deliver
    studio.engine.submit(stream)
    assert sorted(reader.wait()) == list(range(6))
    assert len(withheld) == 2 * 6
    assert studio.leaks() == (0, 0, 0)
    wait_until(lambda: sum(r.tally.near_duplicates["a"] for r in studio.records) == 12)
    expected = studio.submit([replace(task, image_seed=task.image_seed + 200) for task in tasks])
    assert all((reader.images[i] == image).all() for i, image in expected.wait().items())


def test_an_image_that_is_withheld_after_its_stream_was_cancelled_is_not_sampled_again(
    studio: Studio,
) -> None:
    stream, reader = studio.stream(tasks_of(BASE_ALONE, 1))
    studio.engine.submit(stream)
    reader.wait()
    studio.engine.cancel(stream)
    studio.engine.withhold(stream, tasks_of(BASE_ALONE, 1)[0])
    assert studio.leaks() == (0, 0, 0) and not stream.tasks
    studio.engine.close()
    with pytest.raises(Unavailable, match="stopped"):
        studio.engine.withhold(stream, None)


def wait_until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_step_that_raises_fails_all_streams_and_the_engine_takes_no_more(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.submit(tasks_of(BASE_ALONE, 1)).wait()
    problem, may_raise = RuntimeError("out of memory"), threading.Event()

    def step(advances: object) -> int:
        assert may_raise.wait(30)
        raise problem

    monkeypatch.setattr(studio.denoiser, "step", step)
    readers = [studio.submit(tasks_of(BASE_ALONE, 2), request_id=str(i)) for i in range(3)]
    may_raise.set()
    for reader in readers:
        with pytest.raises(Unavailable, match="stopped"):
            reader.wait()
        assert len(reader.errors) == 1
    assert studio.engine.broken is problem
    with pytest.raises(Unavailable, match="stopped"):
        studio.submit(tasks_of(BASE_ALONE, 1))


def test_streams_that_wait_only_for_their_last_images_are_told_too(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.submit(tasks_of(BASE_ALONE, 1)).wait()

    honest, sizes = studio.denoiser.decode, list[int]()

    def decode(states: list[int], tiny: bool) -> list:
        sizes.append(len(states))
        if len(sizes) == 2:
            raise RuntimeError("decoder")
        return honest(states, tiny)

    monkeypatch.setattr(studio.denoiser, "decode", decode)
    unguided = SamplerSettings(3, 1.0, "ddim")  # so that all five end with the same step
    with pytest.raises(Unavailable, match="stopped"):
        studio.submit(tasks_of(BASE_ALONE, 5), unguided).wait()
    assert sizes == [4, 1]


def test_work_is_tallied_by_tenant(studio: Studio, loras: dict[str, bytes]) -> None:
    weights = weights_of("everything", loras)
    readers = [
        studio.submit(tasks_of(weights, num), tenant=tenant) for tenant, num in (("a", 3), ("b", 5))
    ]
    for reader in readers:
        reader.wait()
    studio.settle()
    tallies = [record.tally for record in studio.records]
    assert sum((t.evaluations for t in tallies), Counter()) == {"a": 3 * 3 * 2, "b": 5 * 3 * 2}
    assert sum((t.adapter_hits for t in tallies), Counter()) == {"a": 3, "b": 5}
    assert sum((t.adapter_misses for t in tallies), Counter()).total() == 1, "both use it"
    assert not sum((t.not_finite for t in tallies), Counter())
    reading, may_read = threading.Event(), threading.Event()

    def read() -> bytes:
        reading.set()
        assert may_read.wait(30)
        return loras["everything"]

    waiting, _ = studio.stream(tasks_of(Weights("slow", CLASSES, read), 4), tenant="c")
    studio.engine.submit(waiting)
    assert reading.wait(30)
    assert studio.engine.backlog == {"c": 4 * 3 * 2}
    studio.engine.cancel(waiting)
    may_read.set()


def test_backlog_is_the_evaluations_to_come(studio: Studio) -> None:
    settings = SamplerSettings(200, 2.0, "ddim", guidance_stop=0.5)
    stream, _ = studio.stream(tasks_of(BASE_ALONE, 10), settings)
    assert stream.num_rows_waiting == 10 * (2 * 100 + 100)
    studio.engine.submit(stream)
    while not studio.records:
        studio.settle()
    studio.engine.cancel(stream)
    studio.settle()
    evaluated = sum(record.num_rows for record in studio.records)
    assert 0 < evaluated < 3000
    assert studio.engine.backlog.total() == 0


def test_many_interactive_streams_do_not_stop_bulk_work(studio: Studio) -> None:
    for i in range(30):
        studio.submit(tasks_of(BASE_ALONE, 1), LONG, request_id=str(i), interactive=True)
    while studio.num_references() < 12:
        studio.settle()
    settings = SamplerSettings(4, 2.0, "ddim")
    assert len(studio.submit(tasks_of(BASE_ALONE, 8), settings, tenant="bulk").wait()) == 8
    assert studio.engine.num_streams >= 20


def test_rate_is_measured_on_full_batches(studio: Studio) -> None:
    assert studio.engine.evaluations_per_second == 0.0
    studio.submit(tasks_of(BASE_ALONE, 30)).wait()
    full = [record for record in studio.records if record.num_rows == 8]
    rates = [record.num_rows / record.seconds for record in full]
    assert min(rates) <= studio.engine.evaluations_per_second <= max(rates)


def test_closing_ends_the_thread(base: Base) -> None:
    studio = Studio(base, torch.float32)
    studio.submit(tasks_of(BASE_ALONE, 500), LONG)
    studio.engine.close()
    assert not studio.engine._thread.is_alive()
