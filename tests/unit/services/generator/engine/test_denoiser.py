"""Denoiser: images do not depend on their batch, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition
from services.common.models.diffusion_bases import Base, resolve_base
from services.common.models.lora import LoraSpec
from services.generator.engine.adapter_cache import Weights
from services.generator.engine.denoiser import Denoiser, starting_noise
from services.generator.engine.streams import ImageTask
from services.generator.presets import DECODERS, SCHEDULERS, SamplerSettings
from tests.support.studio import (
    CLASSES,
    EVERYTHING,
    QUICK,
    Reader,
    Studio,
    bytes_of,
    make_lora,
    weights_of,
)

SPECS = {
    "attention": LoraSpec(4, 8.0),
    "everything": LoraSpec(16, 8.0, EVERYTHING),
    "wide": LoraSpec(24, 24.0, EVERYTHING),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Wish:
    """Images ``first`` to ``end - 1`` of a request."""

    adapter: str | None
    class_id: str
    sampler: SamplerSettings
    first: int
    end: int
    tenant: str
    interactive: bool


class Studios:
    """Studios for mixed batches, for cuts, and for single images."""

    def __init__(self, base: Base, dtype: torch.dtype) -> None:
        self.loras = {
            key: make_lora(base, spec, seed) for seed, (key, spec) in enumerate(SPECS.items())
        }
        largest = bytes_of(base, self.loras["wide"], dtype)
        # So little memory that adapters are evicted all the time where images are mixed.
        self.mixing, self.other, self.alone = (
            Studio(base, dtype, memory_bytes=num * largest) for num in (1, 2, 4)
        )
        self._references: dict[tuple[object, ...], np.ndarray] = {}

    def weights(self, wish: Wish) -> Weights:
        return weights_of(wish.adapter, self.loras, wish.class_id)

    def start(self, studio: Studio, wish: Wish, request_id: str) -> Reader:
        tasks = [
            ImageTask(i, wish.class_id, 1000 + i, self.weights(wish))
            for i in range(wish.first, wish.end)
        ]
        return studio.submit(
            tasks,
            wish.sampler,
            tenant=wish.tenant,
            request_id=request_id,
            interactive=wish.interactive,
        )

    def reference(self, wish: Wish, index: int) -> np.ndarray:
        """The image sampled with no other in its batch."""
        key = (wish.adapter, wish.class_id, wish.sampler, index)
        if key not in self._references:
            one = replace(wish, first=index, end=index + 1)
            image = self.start(self.alone, one, "r").wait()[index]
            assert image.std() > 1
            self._references[key] = image
        return self._references[key]

    def close(self) -> None:
        for studio in (self.mixing, self.other, self.alone):
            studio.engine.close()


@pytest.fixture(scope="module", params=DTYPES)
def studios(request: pytest.FixtureRequest, models_dir: Path) -> Iterator[Studios]:
    studios = Studios(resolve_base("tiny", models_dir), DTYPES[request.param])
    yield studios
    studios.close()


SAMPLER = st.builds(
    SamplerSettings,
    num_steps=st.integers(1, 4),
    guidance_scale=st.sampled_from([1.0, 2.0, 0.0, 7.5]),
    scheduler=st.sampled_from(SCHEDULERS),
    guidance_start=st.sampled_from([0.0, 0.3]),
    guidance_stop=st.sampled_from([1.0, 0.6]),
    decoder=st.sampled_from(DECODERS),
)
WISH = st.builds(
    lambda num_images, first, **fields: Wish(first=first, end=first + num_images, **fields),
    adapter=st.sampled_from([None, *SPECS]),
    class_id=st.sampled_from(CLASSES),
    sampler=SAMPLER,
    num_images=st.integers(1, 4),
    first=st.integers(0, 3),
    tenant=st.sampled_from("ab"),
    interactive=st.booleans(),
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wishes=st.lists(WISH, min_size=1, max_size=7), seed=st.integers(0, 2**32))
def test_any_mix_order_and_cut_gives_the_bits_of_an_image_sampled_alone(
    studios: Studios, wishes: list[Wish], seed: int
) -> None:
    chance = random.Random(seed)
    pieces = []
    for number, wish in enumerate(wishes):
        cut = chance.randint(wish.first, wish.end)
        for first, end in ((wish.first, cut), (cut, wish.end)):
            if first < end:
                pieces.append((number, replace(wish, first=first, end=end)))
    chance.shuffle(pieces)
    readers = []
    for number, piece in pieces:
        studio = studios.mixing if chance.random() < 0.7 else studios.other
        readers.append(studios.start(studio, piece, str(number)))
        if chance.random() < 0.3:
            studio.settle()
    for (_, piece), reader in zip(pieces, readers, strict=True):
        images = reader.wait()
        assert sorted(images) == list(range(piece.first, piece.end))
        for index, image in images.items():
            np.testing.assert_array_equal(image, studios.reference(piece, index), str(piece))


def test_seed_class_adapter_and_settings_each_change_the_image(studios: Studios) -> None:
    wish = Wish(None, CLASSES[0], QUICK, 0, 1, "a", False)
    others = [
        replace(wish, class_id=CLASSES[1]),
        *(replace(wish, adapter=key) for key in SPECS),
        replace(wish, sampler=replace(QUICK, num_steps=4)),
        replace(wish, sampler=replace(QUICK, guidance_scale=1.0)),
        replace(wish, sampler=replace(QUICK, guidance_scale=3.0)),
        replace(wish, sampler=replace(QUICK, guidance_stop=0.5)),
        replace(wish, sampler=replace(QUICK, scheduler="unipc")),
        replace(wish, sampler=replace(QUICK, decoder="tiny")),
    ]
    images = [studios.reference(wish, i) for i in (0, 1)]
    images += [studios.reference(other, 0) for other in others]
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in images)
    assert len({image.tobytes() for image in images}) == 2 + len(others)


def test_guidance_outside_its_interval_costs_nothing(studios: Studios) -> None:
    studio = studios.alone
    del studio.records[:]
    interval = SamplerSettings(4, 2.0, "ddim", guidance_start=0.25, guidance_stop=0.5)
    wish = Wish(None, CLASSES[0], interval, 50, 51, "a", False)
    studios.start(studio, wish, "r").wait()
    studio.settle()
    assert [record.num_rows for record in studio.records if record.num_rows] == [1, 2, 1, 1]


def test_sdxl_images_do_not_depend_on_their_batch_mates(models_dir: Path) -> None:
    base = resolve_base("tiny-xl", models_dir)
    studios = Studios(base, torch.float32)
    wish = Wish("everything", CLASSES[0], QUICK, 0, 4, "a", False)
    wishes = [wish, replace(wish, adapter=None), replace(wish, class_id=CLASSES[1])]
    wishes.append(replace(wish, sampler=replace(QUICK, decoder="tiny")))
    readers = [studios.start(studios.mixing, w, str(i)) for i, w in enumerate(wishes)]
    for each, reader in zip(wishes, readers, strict=True):
        for index, image in reader.wait().items():
            np.testing.assert_array_equal(image, studios.reference(each, index))
    studios.close()


@pytest.fixture
def closed(models_dir: Path) -> Denoiser:
    """A denoiser of 8 rows that no engine uses any more."""
    studio = Studio(resolve_base("tiny", models_dir))
    studio.engine.close()
    assert studio.denoiser.exact_batch_rows == [4, 8]
    return studio.denoiser


def test_noise_uses_all_64_bits_of_a_seed() -> None:
    low, high = starting_noise(7, (4,)), starting_noise(7 + 2**32, (4,))
    assert not torch.equal(low, high)
    assert torch.equal(starting_noise(2**64 - 1, (4,)), starting_noise(2**64 - 1, (4,)))
    many = starting_noise(1, (100, 100))
    assert abs(float(many.mean())) < 0.05 and abs(float(many.std()) - 1) < 0.05


@pytest.mark.parametrize("place", range(8))
def test_machine_that_gives_other_bits_in_one_place_of_a_batch_is_refused(
    closed: Denoiser, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    honest = closed._evaluate

    def by_place(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        output = honest(latents, timesteps)
        output[place] *= 1 + 1e-6
        return output

    monkeypatch.setattr(closed, "_evaluate", by_place)
    monkeypatch.setattr(closed.lora, "structure", 1)
    with pytest.raises(FailedPrecondition, match="other bits"):
        closed.prove()


def test_only_batch_sizes_that_give_equal_bits_are_used(
    closed: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = closed._evaluate

    def by_size(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        output = honest(latents, timesteps)
        return output * (1 + 1e-6) if len(latents) == 4 else output

    monkeypatch.setattr(closed, "_evaluate", by_size)
    monkeypatch.setattr(closed.lora, "structure", 1)
    closed.prove()
    assert closed.exact_batch_rows == [8]
