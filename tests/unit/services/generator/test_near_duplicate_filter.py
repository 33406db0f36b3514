"""A planted near-duplicate is never delivered; its replacement depends on nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import DataLoss, FailedPrecondition, NotFound
from services.common.images.near_duplicates import (
    NEAR_DUPLICATE_HASHES,
    NearDuplicateHashes,
)
from services.generator import near_duplicate_filter
from services.generator.adapter_manifest import describe_adapter
from services.generator.engine.step_records import StepRecord
from services.generator.plan import SynthesisPlan, SyntheticImage
from services.generator.shard_renderer import ShardRenderer
from services.generator.shards import Shard
from tests.support.servers.replicas import Replicas, pixels, render
from tests.support.studio import CLASSES

PLANTED = 3
"""Index of the image that is a training image."""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    replicas = Replicas(tmp_path_factory.mktemp("replicas"))
    yield replicas
    replicas.close()


def plant(replicas: Replicas, adapter_id: str, *images: np.ndarray) -> NearDuplicateHashes:
    """Stores adapter "one" again, as if fitted to these images."""
    hashes = NearDuplicateHashes.of(np.stack(images).astype(np.uint8))
    replicas.write(adapter_id, "shared", {"shared": replicas.loras[0]}, hashes)
    return hashes


def free(replicas: Replicas, **fields: object) -> list[SyntheticImage]:
    """Images of adapter "one", which has no hashes."""
    [images] = render(replicas.renderers[0], Shard(replicas.plan("one", **fields), 0, 9))
    return images


def is_copy(image: SyntheticImage, hashes: NearDuplicateHashes) -> bool:
    return hashes.find(pixels(image).astype(np.uint8))


@pytest.fixture(scope="module")
def gated(replicas: Replicas) -> tuple[SynthesisPlan, NearDuplicateHashes, list[SyntheticImage]]:
    """A plan with a planted, rotated copy, its hashes and its images."""
    planted = np.rot90(pixels(free(replicas)[PLANTED]))
    hashes = plant(replicas, "gated", planted)
    plan = replicas.plan("gated")
    [images] = render(replicas.renderers[0], Shard(plan, 0, 9))
    return plan, hashes, images


def test_a_near_duplicate_is_sampled_again_and_its_neighbours_are_what_they_were(
    replicas: Replicas, gated: tuple[SynthesisPlan, NearDuplicateHashes, list[SyntheticImage]]
) -> None:
    plan, hashes, images = gated
    before = free(replicas)
    assert [image.index for image in images] == list(range(9))
    assert is_copy(before[PLANTED], hashes)
    assert not any(is_copy(image, hashes) for image in images)
    for old, new in zip(before, images, strict=True):
        if not is_copy(old, hashes):
            assert new == old
    again = images[PLANTED]
    assert again.image_seed != before[PLANTED].image_seed
    attempts = range(1, near_duplicate_filter.MAX_ATTEMPTS)
    assert again.image_seed in [plan.image_seed(again.class_id, PLANTED, k) for k in attempts]
    assert again.class_id == before[PLANTED].class_id


def test_what_is_sampled_again_is_the_same_on_every_replica_and_from_any_cut(
    replicas: Replicas, gated: tuple[SynthesisPlan, NearDuplicateHashes, list[SyntheticImage]]
) -> None:
    plan, _, images = gated
    for renderer in reversed(replicas.renderers):
        for first, end in ((0, 9), (PLANTED, 9), (PLANTED, PLANTED + 1), (1, 5)):
            noise = Shard(replicas.plan("each"), 0, 9)
            again, _ = render(renderer, Shard(plan, first, end), noise)
            assert again == images[first:end]


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_the_file_format_decides_nothing(
    replicas: Replicas,
    gated: tuple[SynthesisPlan, NearDuplicateHashes, list[SyntheticImage]],
    image_format: str,
) -> None:
    _, _, images = gated
    plan = replicas.plan("gated", image_format=image_format)
    [others] = render(replicas.renderers[1], Shard(plan, 0, 9))
    assert [image.image_seed for image in others] == [image.image_seed for image in images]


def test_copies_are_counted_for_their_tenant(
    replicas: Replicas, gated: tuple[SynthesisPlan, NearDuplicateHashes, list[SyntheticImage]]
) -> None:
    plan, _, images = gated
    records = list[StepRecord]()
    renderer = ShardRenderer(replicas.settings, replicas.store, records.append)
    render(renderer, Shard(plan, 0, 9))
    [engine] = renderer.engines
    engine.close()
    num_sampled = sum(record.num_images_finished for record in records)
    num_withheld = sum(record.tally.near_duplicates["local"] for record in records)
    assert num_withheld == num_sampled - 9 >= 1
    tried = [
        plan.image_seed(CLASSES[0], PLANTED, k) for k in range(near_duplicate_filter.MAX_ATTEMPTS)
    ]
    assert num_withheld >= tried.index(images[PLANTED].image_seed)


def test_an_image_that_only_comes_out_as_copies_is_told_after_those_before_it(
    replicas: Replicas,
) -> None:
    plan, copies = replicas.plan("one"), list[np.ndarray]()
    [before] = render(replicas.renderers[0], Shard(plan, 0, PLANTED))
    known = [pixels(image) for image in before]
    for attempt in range(near_duplicate_filter.MAX_ATTEMPTS):
        adapter_id = f"copies-{attempt}"
        hashes = plant(replicas, adapter_id, *copies) if copies else None
        plan = replicas.plan(adapter_id if copies else "one")
        [[image]] = render(replicas.renderers[0], Shard(plan, PLANTED, PLANTED + 1))
        assert hashes is None or not is_copy(image, hashes)
        copies.append(pixels(image))
        if image.image_seed == plan.image_seed(image.class_id, PLANTED, 7):
            break
    hashes = plant(replicas, "copies", *copies)
    plan, seen = replicas.plan("copies"), list[SyntheticImage]()
    assert not any(hashes.find(each.astype(np.uint8)) for each in known), "a test of its own"

    async def run() -> None:
        async for images in replicas.renderers[0].render(Shard(plan, 0, 9)):
            seen.extend(images)

    with pytest.raises(FailedPrecondition) as caught:
        asyncio.run(run())
    assert [image.index for image in seen] == list(range(PLANTED))
    assert caught.value.subject == "adapters/copies"
    message = str(caught.value)
    assert f"image {PLANTED} ({CLASSES[0]})" in message and "fewer steps" in caught.value.remedy
    assert idle(replicas.renderers[0])


def test_a_reader_that_leaves_ends_what_is_sampled_again(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicate_filter, "MAX_ATTEMPTS", 10**9)
    anything = NearDuplicateHashes(np.zeros(1, np.uint64), max_bits=64)
    replicas.write("endless", "shared", {"shared": replicas.loras[0]}, anything)
    plan, records = replicas.plan("endless"), list[StepRecord]()
    renderer = ShardRenderer(replicas.settings, replicas.store, records.append)

    async def run() -> None:
        reading = asyncio.ensure_future(anext(renderer.render(Shard(plan, 0, 9))))
        while sum(record.tally.near_duplicates["local"] for record in list(records)) < 30:
            await asyncio.sleep(0.01)
        assert not reading.done()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(run())
    assert idle(renderer)
    [engine] = renderer.engines
    engine.close()


def idle(renderer: ShardRenderer) -> bool:
    """Whether the engines have nothing left, waiting for what is under way."""
    until = time.monotonic() + 30
    for engine in renderer.engines:
        done = threading.Event()
        engine._command(done.set)
        assert done.wait(30)
        while engine.num_streams and time.monotonic() < until:
            time.sleep(0.01)
    time.sleep(0.05)  # what was being compared is thrown away
    return not any(engine.num_streams or engine.backlog.total() for engine in renderer.engines)


def test_an_older_adapter_is_served_and_one_with_damaged_hashes_is_not(
    replicas: Replicas, tmp_path: Path
) -> None:
    assert not replicas.plan("one").adapter.has_hashes  # type: ignore[union-attr]
    draft = replicas.store.new_draft("local", "adapters", "damaged")
    draft.write("shared/pytorch_lora_weights.safetensors", replicas.loras[0])
    draft.write(NEAR_DUPLICATE_HASHES, b'{"hashes": ["not hex"]}')
    body = {"layout": "shared", "class_ids": list(CLASSES)}
    draft.commit({"base": "tiny", "base_revision": replicas.base.revision, "body": body})
    with pytest.raises(DataLoss, match="fit the adapter again"):
        render(replicas.renderers[0], Shard(replicas.plan("damaged"), 0, 1))


def test_an_adapter_that_was_deleted_before_its_hashes_were_read_is_not_found(
    replicas: Replicas,
) -> None:
    plant(replicas, "gone", np.zeros((64, 64, 3)))
    plan = replicas.plan("gone")
    replicas.store.delete("local", "adapters", "gone")
    with pytest.raises(NotFound):
        render(replicas.renderers[0], Shard(plan, 0, 1))


def test_hashes_are_part_of_an_adapter_s_digest(replicas: Replicas) -> None:
    plant(replicas, "first", np.zeros((64, 64, 3)))
    plant(replicas, "again", np.zeros((64, 64, 3)))
    plant(replicas, "second", np.tri(64)[:, :, None] * np.full(3, 255))
    ids = ("one", "first", "again", "second")
    digests = [describe_adapter(replicas.store, "local", each).digest for each in ids]
    assert digests[1] == digests[2] and len(set(digests)) == 3
