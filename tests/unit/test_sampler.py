"""The sampler: an image is its seed's, whoever shares its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.bases import PromptEmbeddings, encode_prompts, load_pipeline, resolve_base
from services.common.errors import Cancelled
from services.generator.sampler import Sampler, Slot, build_scheduler, starting_noise
from services.generator.synthesize import SCHEDULERS, SamplerSettings
from tests import fakes

QUICK = SamplerSettings(num_steps=3, guidance_scale=2.0, scheduler="dpmpp_2m")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    fakes.write_tiny_base(folder, "tiny")
    fakes.write_tiny_xl_base(folder, "tiny-xl")
    return folder


class Studio:
    """A sampler with the prompts of three classes."""

    def __init__(self, models_dir: Path, name: str, dtype: torch.dtype = torch.float32) -> None:
        pipeline = load_pipeline(resolve_base(name, models_dir))
        many = encode_prompts(pipeline, ["a monocyte", "a basophil", "a myeloblast", ""])
        pooled = many.pooled if many.pooled is not None else [None] * 4
        rows = [PromptEmbeddings(t, p) for t, p in zip(many.tokens, pooled, strict=True)]
        *self.prompts, self.nothing = rows
        self.sampler = Sampler(pipeline, batch_size=4, dtype=dtype)

    def draw(
        self, slots: list[tuple[int, int] | None], settings: SamplerSettings = QUICK
    ) -> list[np.ndarray | None]:
        """Draw (seed, class) pairs."""
        wanted = [None if s is None else Slot(s[0], self.prompts[s[1]]) for s in slots]
        return self.sampler.draw(wanted, self.nothing, settings)


@pytest.fixture(scope="module")
def studio(models_dir: Path) -> Studio:
    return Studio(models_dir, "tiny")


def check_batch_mates_do_not_matter(studio: Studio) -> None:
    full = studio.draw([(11, 0), (12, 1), (13, 2), (14, 0)])
    alone = studio.draw([None, (12, 1)])
    others = studio.draw([(91, 2), (12, 1), (92, 2), (93, 1)])
    assert alone[0] is None
    assert full[1] is not None and full[1].std() > 1
    np.testing.assert_array_equal(full[1], alone[1])
    np.testing.assert_array_equal(full[1], others[1])


def test_image_does_not_depend_on_its_batch_mates(studio: Studio) -> None:
    check_batch_mates_do_not_matter(studio)


def test_nor_in_bfloat16(models_dir: Path) -> None:
    check_batch_mates_do_not_matter(Studio(models_dir, "tiny", torch.bfloat16))


def test_nor_with_an_sdxl_pipeline(models_dir: Path) -> None:
    check_batch_mates_do_not_matter(Studio(models_dir, "tiny-xl"))


def test_seed_class_and_settings_each_change_the_image(studio: Studio) -> None:
    reference = studio.draw([(11, 0)])[0]
    assert reference is not None and reference.shape == (32, 32, 3)
    assert reference.dtype == np.uint8
    unguided = SamplerSettings(3, 1.0, "dpmpp_2m")
    for other in (
        studio.draw([(12, 0)]),
        studio.draw([(11, 1)]),
        studio.draw([(11, 0)], SamplerSettings(4, 2.0, "dpmpp_2m")),
        studio.draw([(11, 0)], unguided),
    ):
        assert not np.array_equal(reference, other[0])


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 2, 20, 1000])
def test_schedulers_are_finite_and_end_at_the_image(name: str, num_steps: int) -> None:
    scheduler = build_scheduler(name, dict(fakes.tiny_scheduler().config))
    scheduler.set_timesteps(num_steps)
    assert 0 < len(scheduler.timesteps) <= num_steps
    # A model that knows the answer (all latents 0.5) must be led to it.
    answer = torch.full((1, 2, 2, 2), 0.5)
    latents = starting_noise(3, (1, 2, 2, 2)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[timestep].sqrt()
        sigma = (1 - alpha**2).sqrt()
        noise = (latents - alpha * answer) / sigma
        velocity = alpha * noise - sigma * answer
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()
    assert (latents - answer).abs().max() < 0.05


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws(studio: Studio, name: str) -> None:
    images = studio.draw([(1, 0), (2, 1)], SamplerSettings(4, 2.0, name))
    assert all(image is not None and image.shape == (32, 32, 3) for image in images)


def test_noise_uses_all_64_bits_of_a_seed() -> None:
    low, high = starting_noise(7, (4,)), starting_noise(7 + 2**32, (4,))
    assert not torch.equal(low, high)
    assert torch.equal(starting_noise(2**64 - 1, (4,)), starting_noise(2**64 - 1, (4,)))
    many = starting_noise(1, (100, 100))
    assert abs(float(many.mean())) < 0.05 and abs(float(many.std()) - 1) < 0.05


def test_stop_is_asked_before_every_step(studio: Studio) -> None:
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) == 3

    slots = [Slot(1, studio.prompts[0])]
    with pytest.raises(Cancelled):
        studio.sampler.draw(slots, studio.nothing, SamplerSettings(50, 2.0, "ddim"), stopped)
    assert len(asked) == 3


def test_values_that_are_not_finite_are_an_error(studio: Studio) -> None:
    broken = PromptEmbeddings(torch.full_like(studio.nothing.tokens, float("nan")))
    with pytest.raises(Exception, match="not finite"):
        studio.sampler.draw([Slot(1, broken)], studio.nothing, QUICK)
