"""An answer carries its doubt."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import softmax

from services.common.answers.answer_model import AnswerModel
from services.common.answers.fitting import HeldOut, fit_answer_model
from services.common.answers.options import AnswerOptions
from services.common.answers.outliers import distances
from services.common.answers.priors import PriorSource
from services.common.answers.review import ReviewReason
from services.common.errors import InvalidArgument
from tests.support.few_shot import CLASSES, cell_image

_CENTRES = np.eye(8)[:3] * 4


def network(num_each: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits, features, pictures and labels of a fairly good network."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), num_each)
    features = _CENTRES[labels] + rng.normal(0, 0.4, (len(labels), 8))
    logits = 2 * rng.normal(0, 1, (len(labels), 3))
    logits[np.arange(len(labels)), labels] += 6
    pictures = np.stack(
        [cell_image(CLASSES[c], 10_000 * seed + n, 48) for n, c in enumerate(labels)]
    )
    return logits, features, pictures, labels


@pytest.fixture(scope="module")
def model() -> AnswerModel:
    logits, features, pictures, labels = network(40, 1)
    _, bank, _, _ = network(40, 2)
    held_out = HeldOut(logits, labels, distances(features, bank))
    return fit_answer_model(CLASSES, np.full(3, 1 / 3), pictures, bank, held_out)


def test_answers_of_known_cells(model: AnswerModel) -> None:
    logits, features, pictures, labels = network(60, 3)
    found = model.answer(logits, features, pictures)
    assert found.calibrated and found.conformal and found.coverage == 0.9
    assert found.prior_source == PriorSource.TRAINING
    assert found.class_priors == pytest.approx(dict.fromkeys(CLASSES, 1 / 3))
    for answer in found.each:
        shares = [share for _, share in answer.probabilities]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
        assert answer.class_id == answer.probabilities[0][0]
        assert answer.needs_review == bool(answer.review_reasons)
    held = [CLASSES[c] in a.prediction_set for c, a in zip(labels, found.each, strict=True)]
    assert 0.82 < np.mean(held) <= 0.98
    assert np.mean([a.needs_review for a in found.each]) < 0.4
    assert np.mean([a.out_of_distribution_score > 1 for a in found.each]) < 0.06  # type: ignore[operator]


def reasons(model: AnswerModel, **changed: np.ndarray) -> set[ReviewReason]:
    """Reasons of a sure answer to a good picture, partly changed."""
    _, _, pictures, _ = network(1, 3)
    parts = {"logits": np.array([[9.0, 0, 0]]), "features": _CENTRES[:1], "images": pictures[:1]}
    parts |= changed
    (answer,) = model.answer(parts["logits"], parts["features"], parts["images"]).each
    return set(answer.review_reasons)


def test_each_reason_for_review_has_its_cause(model: AnswerModel) -> None:
    _, _, pictures, _ = network(1, 3)
    assert reasons(model) == set()
    assert ReviewReason.NEAR_BOUNDARY in reasons(model, logits=np.array([[3.0, 3.0, -9.0]]))
    assert ReviewReason.LARGE_SET in reasons(model, logits=np.zeros((1, 3)))
    soft = ndimage.gaussian_filter(pictures[:1], (0, 2, 2, 0))
    assert ReviewReason.BLURRED in reasons(model, images=soft)
    bright = (pictures[:1] * 2.0).clip(0, 255).astype(np.uint8)
    assert ReviewReason.EXPOSURE in reasons(model, images=bright)
    assert ReviewReason.NOT_A_CELL in reasons(model, images=np.full_like(pictures[:1], 230))
    unlike = _CENTRES[:1] + 1.35 * model.outliers.scale * 4 * np.eye(8)[6:7]  # type: ignore[union-attr]
    assert ReviewReason.UNKNOWN_CLASS in reasons(model, features=unlike)


def test_priors_of_the_request_move_the_answer_and_not_the_set(model: AnswerModel) -> None:
    logits = np.array([[1.0, 0.9, -9.0]])
    plain = model.answer(logits, None, None)
    shares = {CLASSES[0]: 0.05, CLASSES[1]: 0.95}
    moved = model.answer(logits, None, None, AnswerOptions(class_priors=shares))
    assert plain.each[0].class_id == CLASSES[0] and moved.each[0].class_id == CLASSES[1]
    assert moved.prior_source == PriorSource.REQUEST
    assert moved.class_priors == pytest.approx({**shares, CLASSES[2]: 0})
    assert dict(moved.each[0].probabilities)[CLASSES[2]] == 0
    assert set(moved.each[0].prediction_set) == set(plain.each[0].prediction_set)


def test_priors_are_estimated_from_fifty_images_on(model: AnswerModel) -> None:
    logits, features, pictures, labels = network(60, 4)
    many = np.flatnonzero((labels == 0) | (np.arange(len(labels)) % 6 == 0))
    estimate = AnswerOptions(estimate_priors=True)
    found = model.answer(logits[many], features[many], pictures[many], estimate)
    assert found.prior_source == PriorSource.ESTIMATED
    assert found.class_priors[CLASSES[0]] == pytest.approx(60 / 80, abs=0.08)
    few = model.answer(logits[:49], features[:49], pictures[:49], estimate)
    assert few.prior_source == PriorSource.TRAINING
    assert few.class_priors == pytest.approx(dict.fromkeys(CLASSES, 1 / 3))


def test_top_k_limits_probabilities_alone(model: AnswerModel) -> None:
    (answer,) = model.answer(
        np.zeros((1, 3)), None, None, AnswerOptions(coverage=0.999, top_k=1)
    ).each
    assert len(answer.probabilities) == 1 and len(answer.prediction_set) == 3


def test_a_call_without_a_readable_image_has_no_answers(model: AnswerModel) -> None:
    nothing = model.answer(
        np.zeros((0, 3)),
        np.zeros((0, 8)),
        np.zeros((0, 48, 48, 3), np.uint8),
        AnswerOptions(estimate_priors=True),
    )
    assert nothing.each == () and nothing.prior_source == PriorSource.TRAINING


def test_a_classifier_without_a_fit_answers_as_before_and_says_so() -> None:
    logits, features, pictures, _ = network(3, 5)
    found = AnswerModel.plain(CLASSES).answer(logits, features, pictures)
    assert not found.calibrated and not found.conformal and found.coverage == 0
    expected = softmax(logits, axis=1)
    for row, answer in zip(expected, found.each, strict=True):
        assert dict(answer.probabilities) == pytest.approx(dict(zip(CLASSES, row, strict=True)))
        assert answer.prediction_set == () and answer.out_of_distribution_score is None
        assert not answer.needs_review


def test_answers_do_not_depend_on_the_rest_of_the_call(model: AnswerModel) -> None:
    logits, features, pictures, _ = network(5, 6)
    together = model.answer(logits, features, pictures).each
    for n, answer in enumerate(together):
        (alone,) = model.answer(logits[n : n + 1], features[n : n + 1], pictures[n : n + 1]).each
        assert dataclasses.replace(alone, out_of_distribution_score=None, probabilities=()) == (
            dataclasses.replace(answer, out_of_distribution_score=None, probabilities=())
        )
        assert alone.out_of_distribution_score == pytest.approx(
            answer.out_of_distribution_score, rel=1e-4
        )
        assert dict(alone.probabilities) == pytest.approx(dict(answer.probabilities))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (AnswerOptions(coverage=1.0), "options.coverage"),
        (AnswerOptions(class_priors={"blast": 1.0}), "options.class_priors"),
        (AnswerOptions(class_priors={CLASSES[0]: 1}, estimate_priors=True),
         "options.estimate_priors"),
        (AnswerOptions(top_k=-1), "options.top_k"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(
    options: AnswerOptions, field: str, model: AnswerModel
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        model.answer(np.zeros((1, 3)), None, None, options)
    assert caught.value.field == field and caught.value.remedy


def test_priors_cannot_be_estimated_in_a_stream() -> None:
    with pytest.raises(InvalidArgument, match=r"options\.estimate_priors: is set for a stream"):
        AnswerOptions(estimate_priors=True).check(CLASSES, is_stream=True)
