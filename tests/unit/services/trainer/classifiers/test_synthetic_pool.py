"""Synthetic images in balanced rounds, kept once, never generated twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import Cancelled, DataLoss, NotFound
from services.common.images.seeds import image_seed
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers.image_sets import (
    ROUND_PER_CLASS,
    SyntheticPlan,
    count_withheld,
    read_image_set,
)
from services.trainer.classifiers.synthetic_pool import SyntheticPool
from tests.support.few_shot import CLASSES, TENANT, DrawnImage, FakeGenerator


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def plan_of(num_per_class: int = 40, **changes: object) -> SyntheticPlan:
    fields = {
        "adapter": "adapters/adapter-1",
        "adapter_digest": "a" * 64,
        "class_ids": CLASSES,
        "num_per_class": num_per_class,
        "seed": 7,
    }
    return SyntheticPlan(**{**fields, **changes})


def pool_of(plan: SyntheticPlan, store: ArtifactStore, generator: object) -> SyntheticPool:
    return SyntheticPool(plan, 16, store, TENANT, generator, lambda *_: None)


def test_every_prefix_of_rounds_holds_every_class_equally(store: ArtifactStore) -> None:
    generator = FakeGenerator()
    with pool_of(plan_of(), store, generator) as pool:
        first = pool.wait_for(0.01)
        assert np.bincount(first.labels).tolist() == [ROUND_PER_CLASS] * 3
        assert np.bincount(pool.wait_for(1.0).labels).tolist() == [40] * 3
        assert pool.wait_for(0.5).images.shape == (3 * 32, 16, 16, 3)
    counts = [set(class_counts.values()) for class_counts, _ in generator.requests]
    assert counts == [{16}, {16}, {8}]
    assert len({seed for _, seed in generator.requests}) == 3


def test_image_set_is_committed_and_the_next_classifier_reads_it_back(
    store: ArtifactStore,
) -> None:
    plan = plan_of()
    with pool_of(plan, store, FakeGenerator()) as pool:
        name = pool.image_set()
        drawn = pool.wait_for(1.0).images.copy()
    manifest = store.get_manifest(TENANT, "imageSets", plan.image_set_id)
    assert manifest["name"] == name == f"imageSets/{plan.image_set_id}"
    assert manifest["parents"] == ["adapters/adapter-1"]
    assert manifest["body"]["num_images"] == 120
    silent = FakeGenerator(fail_after=0)
    with pool_of(plan, store, silent) as pool:
        assert pool.image_set() == name
        np.testing.assert_array_equal(pool.wait_for(1.0).images, drawn)
    assert silent.requests == []
    shown = read_image_set(store, TENANT, plan.image_set_id, 20)
    assert {class_id: len(files) for class_id, files in shown.items()} == dict.fromkeys(CLASSES, 20)


def test_what_the_generator_withheld_is_counted_by_the_seeds(store: ArtifactStore) -> None:
    class Gated(FakeGenerator):
        def __call__(self, class_counts: dict[str, int], seed: int) -> Iterator[DrawnImage]:
            for image in super().__call__(class_counts, seed):
                attempt = {3: 1, 20: 4}.get(image.index, 0)
                drawn = image_seed(image.class_id, seed, image.index, attempt)
                yield replace(image, image_seed=drawn)

    for plan, generator, expected in (
        (plan_of(), Gated(), 3 * 5),
        (plan_of(seed=8), FakeGenerator(), 0),
    ):
        with pool_of(plan, store, generator) as pool:
            pool.image_set()
        assert count_withheld(plan, store, TENANT) == expected
    with pytest.raises(NotFound):
        count_withheld(plan_of(seed=9), store, TENANT)


def test_broken_run_goes_on_where_it_stopped(store: ArtifactStore) -> None:
    plan = plan_of()
    with pool_of(plan, store, FakeGenerator(fail_after=60)) as pool:
        with pytest.raises(ConnectionError):
            pool.wait_for(1.0)
    assert not store.exists(TENANT, "imageSets", plan.image_set_id)
    rest = FakeGenerator()
    with pool_of(plan, store, rest) as pool:
        pool.image_set()
        resumed = pool.wait_for(1.0).images.copy()
    assert len(rest.requests) == 2, "the first round was kept, so only two are asked for"
    other = plan_of(adapter_digest="b" * 64)
    with pool_of(other, store, FakeGenerator()) as pool:
        np.testing.assert_array_equal(pool.wait_for(1.0).images, resumed)


def test_waiting_can_be_cancelled_and_closing_stops_the_stream(store: ArtifactStore) -> None:
    closed = []

    def endless(class_counts: dict[str, int], seed: int):
        try:
            generator = FakeGenerator()
            while True:
                yield from generator(class_counts, seed)
        finally:
            closed.append(True)

    def cancel(arrived: int, total: int) -> None:
        raise Cancelled

    pool = SyntheticPool(plan_of(), 16, store, TENANT, endless, cancel)
    with pool, pytest.raises(Cancelled):
        pool.wait_for(1.0)
    assert closed == [True]


def test_model_that_changes_between_rounds_is_noticed(store: ArtifactStore) -> None:
    generator = FakeGenerator()

    def changing(class_counts: dict[str, int], seed: int):
        generator.manifest["base_revision"] = f"r{len(generator.requests)}"
        yield from generator(class_counts, seed)

    with pool_of(plan_of(), store, changing) as pool, pytest.raises(DataLoss, match="changed"):
        pool.wait_for(1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"num_per_class": 41},
        {"adapter_digest": "b" * 64},
        {"sampler": {"preset": "fast"}},
        {"class_ids": CLASSES[:2]},
    ],
)
def test_another_plan_is_another_image_set(change: dict[str, object]) -> None:
    assert plan_of(**change).image_set_id != plan_of().image_set_id
    assert plan_of(sampler={"preset": "", "num_steps": None}).digest == plan_of().digest
