"""Presets of classifiers, and what a request makes of them."""

from __future__ import annotations

import pytest

from services.trainer.classifiers.recipe import (
    hyperparameters_from_spec,
)


@pytest.mark.parametrize(
    ("asked", "expected"), [({}, 16), ({"batch_size": 9}, 4), ({"batch_size": 2}, 2)]
)
def test_a_step_adds_half_as_many_synthetic_images(asked: dict[str, int], expected: int) -> None:
    hparams = hyperparameters_from_spec({"settings": asked}, "")
    assert hparams.synthetic_batch_size == expected
    assert (
        hyperparameters_from_spec({"settings": {"preset": "paper"}}, "").synthetic_batch_size == 64
    )


def test_weights_that_know_cells_are_tuned_with_a_lower_rate() -> None:
    scratch, tuned, asked = (
        hyperparameters_from_spec({"settings": {"seed": 1, **settings}}, "")
        for settings in (
            {},
            {"resnet_base": "cyto-resnet"},
            {"resnet_base": "cyto-resnet", "learning_rate": 1e-2},
        )
    )
    assert tuned.learning_rate < scratch.learning_rate and asked.learning_rate == 1e-2
    assert tuned.num_steps == scratch.num_steps


def test_paper_preset_is_the_papers() -> None:
    resnet = hyperparameters_from_spec({"settings": {"preset": "paper"}}, "clip-vit-b-32")
    assert (resnet.architecture, resnet.image_size) == ("resnet50", 384)
    assert (resnet.batch_size, resnet.learning_rate) == (64, 1e-4)
    clip = hyperparameters_from_spec(
        {"settings": {"preset": "paper", "architecture": "clip"}}, "clip-vit-b-32"
    )
    assert clip.clip_base == "clip-vit-b-32" and not clip.lora_mlp
    short = hyperparameters_from_spec({"settings": {"preset": "paper", "num_steps": 100}}, "")
    assert short.warmup_steps == 30
