"""Presets of studies, and the hyperparameters of each arm."""

from __future__ import annotations

import dataclasses
import json

from services.trainer.studies import recipe as study_recipe
from services.trainer.studies.recipe import ARMS, StudySettings, Trial, hyperparameters_of


def test_only_further_real_images_always_count_in_full() -> None:
    chosen = study_recipe.PRESETS["evidence"]
    by_arm = {arm: hyperparameters_of(chosen, Trial(0, "resnet18", arm, 200)) for arm in ARMS}
    ceiling = by_arm.pop("real_plus_further_real")
    assert ceiling.enough_real == 0
    assert set(by_arm.values()) == {dataclasses.replace(ceiling, enough_real=8)}


def test_the_preset_has_few_of_the_rare_classes_that_are_there() -> None:
    evidence = StudySettings.from_spec({})
    assert evidence.split(2, ["basophil", "monocyte"]).class_shots == {"basophil": 8}
    assert evidence.split(2, ["basophil"]).seed == 2 and evidence.num_draws >= 5
    assert StudySettings.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence
    same = StudySettings.from_spec({"shots": 4})
    assert same.split(0, ["basophil", "monocyte"]).class_shots == {} and same.shots == 4
    own = StudySettings.from_spec({"class_shots": {"monocyte": 2}, "seed": 7})
    assert own.split(1, ["basophil", "monocyte"]).class_shots == {"monocyte": 2}
    assert own.split(1, []).seed == 8
