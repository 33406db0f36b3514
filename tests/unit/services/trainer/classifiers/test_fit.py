"""A classifier starts from weights that depend on its seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from services.common.models.classifiers import build_model
from services.trainer.classifiers.fit import classifier_config, initial_model
from services.trainer.classifiers.recipe import hyperparameters_from_spec
from tests.support.few_shot import CLASSES, tiny_settings


@pytest.mark.parametrize("architecture", ["resnet18", "clip"])
def test_first_weights_are_those_of_the_seed_whatever_was_drawn_before(
    tmp_path: Path, architecture: str
) -> None:
    settings: Any = tiny_settings(tmp_path)
    spec = {"settings": {"architecture": architecture, "seed": 7}}
    hparams = hyperparameters_from_spec(spec, settings.default_clip)
    config, _ = classifier_config(hparams, list(CLASSES), settings)
    torch.manual_seed(7)
    expected = build_model(config, settings.models_dir).state_dict()
    torch.rand(5)
    before = torch.get_rng_state()
    found = initial_model(hparams, config, settings).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(torch.get_rng_state(), before), "what is drawn next is not changed by it"
