"""An answer model survives its artifact; its manifest tells its abilities."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from services.common.answers.answer_model import AnswerModel
from services.common.answers.fitting import HeldOut, fit_answer_model
from services.common.answers.storage import (
    ANSWERS_FILE,
    body_of,
    load_answer_model,
    save_answer_model,
    support_of,
)
from tests.support.few_shot import CLASSES, cell_image

EQUAL = np.full(3, 1 / 3)


def fitted(with_held_out: bool) -> AnswerModel:
    rng = np.random.default_rng(0)
    pictures = np.stack([cell_image(CLASSES[n % 3], n, 32) for n in range(30)])
    labels = np.arange(30) % 3
    held_out = HeldOut(rng.normal(0, 1, (30, 3)), labels, rng.uniform(0.1, 1, 30))
    features = rng.normal(0, 1, (30, 4))
    return fit_answer_model(CLASSES, EQUAL, pictures, features, held_out if with_held_out else None)


@pytest.mark.parametrize("with_held_out", [True, False])
def test_stored_model_answers_the_same(with_held_out: bool) -> None:
    model = fitted(with_held_out)
    body = {"class_ids": list(CLASSES), "answers": json.loads(json.dumps(body_of(model)))}
    files = {ANSWERS_FILE: save_answer_model(model)}
    again = load_answer_model(body, files.__getitem__)
    logits = np.random.default_rng(1).normal(0, 2, (6, 3))
    features = np.random.default_rng(2).normal(0, 1, (6, 4))
    pictures = np.stack([cell_image(CLASSES[0], 100 + n, 32) for n in range(6)])
    assert again.answer(logits, features, pictures) == model.answer(logits, features, pictures)


def test_manifest_says_what_there_is() -> None:
    whole = support_of({"class_ids": CLASSES, "answers": body_of(fitted(True))})
    assert dataclasses.asdict(whole) == {
        "calibrated": True,
        "conformal": True,
        "out_of_distribution": True,
        "training_priors": pytest.approx(dict.fromkeys(CLASSES, 1 / 3)),
        "reason": "",
    }
    less = support_of({"class_ids": CLASSES, "answers": body_of(fitted(False), "too few")})
    assert not (less.calibrated or less.conformal or less.out_of_distribution)
    assert less.reason == "too few"


def test_manifest_of_an_earlier_release_means_plain_answers() -> None:
    body = {"class_ids": list(CLASSES)}
    assert not support_of(body).calibrated and support_of(body).reason

    def read(path: str) -> bytes:
        raise AssertionError(f"{path} is not there")

    model = load_answer_model(body, read)
    assert model.calibration is None and model.conformal is None and model.class_ids == CLASSES


def test_file_of_another_classifier_is_refused() -> None:
    data = save_answer_model(fitted(True))
    body = {"class_ids": ["a", "b"], "answers": body_of(fitted(True))}
    with pytest.raises(ValueError, match="3 classes were fitted, not 2"):
        load_answer_model(body, lambda _: data)
