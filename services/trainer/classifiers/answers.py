"""Fits and tests the answer model of a trained classifier.

Imports torch; the trainer's front does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from services.common.answers.answer_model import AnswerModel, Answers
from services.common.answers.fitting import HeldOut, fit_answer_model
from services.common.answers.storage import body_of
from services.common.errors import FailedPrecondition
from services.common.models.classifier_config import ClassifierConfig
from services.trainer.classifiers.cross_fit import answers_of, cross_fit
from services.trainer.classifiers.fit import PHASE_TEST, TestedClassifier
from services.trainer.classifiers.folds import assign_folds, seen_by_base, training_groups
from services.trainer.classifiers.recipe import Hyperparameters
from services.trainer.classifiers.stages import TrainingStages
from services.trainer.classifiers.training_images import SyntheticImages, labelled
from services.trainer.compute.training_run import ProgressFn
from services.trainer.config import TrainerSettings
from services.trainer.datasets.reading import SplitImages
from services.trainer.evaluation.answers import AnsweredTest, answer_figures

NOT_ASKED = "the request asked for no calibration folds"


@dataclass(frozen=True)
class FittedAnswers:
    """An answer model with what the artifact says of it.

    Attributes:
        model: Fitted as far as the training images allow.
        body: For the manifest: what there is, and why something is missing.
        tested: Answers to the test images; None without calibration.
        figures: Figures of ``tested``; empty without.
    """

    model: AnswerModel
    body: dict[str, Any]
    tested: AnsweredTest | None
    figures: dict[str, Any]


@dataclass(frozen=True)
class AnswerTraining:
    """What the answer model of a classifier is fitted with.

    Attributes:
        hparams: Hyperparameters of the final network.
        config: Its architecture, classes and image size.
        num_folds: Folds of the training images; 0: no calibration.
        dataset: Manifest of the dataset, for patients and near-duplicates.
        base_manifest: Manifest of the base that it started from; empty without one.
    """

    hparams: Hyperparameters
    config: ClassifierConfig
    num_folds: int
    dataset: Mapping[str, Any]
    base_manifest: Mapping[str, Any]


def fit_answers(
    done: TestedClassifier,
    training: AnswerTraining,
    train_side: SplitImages,
    synthetic: SyntheticImages | None,
    settings: TrainerSettings,
    progress: ProgressFn,
    stages: TrainingStages,
) -> tuple[AnswerModel, str]:
    """Fits the answer model on training images by cross-fitting.

    Args:
        done: The final classifier, which does not change.
        training: What to fit with.
        train_side: Training images of the dataset.
        synthetic: Synthetic images of the final classifier, or None.
        settings: Models folder and device.
        progress: Called once a step; may raise to stop.
        stages: Checkpoints, where finished folds are kept.

    Returns:
        The model, and why it is not whole; empty if it is.
    """
    class_ids = training.config.class_ids
    device = torch.device(settings.torch_device())
    num_images, phase = len(train_side.images), "calibrating: features"
    final = answers_of(
        done.model, train_side.images, device, lambda n: progress(phase, n, num_images, {})
    )
    held_out, reason = _held_out(training, train_side, final, synthetic, settings, progress, stages)
    priors = np.full(len(class_ids), 1 / len(class_ids))  # minibatches are class-balanced
    model = fit_answer_model(class_ids, priors, train_side.images, final[0], held_out)
    return model, reason


def measured_answers(
    done: TestedClassifier,
    fitted: tuple[AnswerModel, str],
    load_test: Callable[[], SplitImages],
    settings: TrainerSettings,
    progress: ProgressFn,
) -> FittedAnswers:
    """Measures the answers on the locked test images."""
    model, reason = fitted
    body = body_of(model, reason)
    if model.calibration is None:
        return FittedAnswers(model, body, None, {})
    body["temperature"] = model.calibration.temperature
    test = load_test()
    device, num_images = torch.device(settings.torch_device()), len(test.images)
    features, logits = answers_of(
        done.model, test.images, device, lambda n: progress(PHASE_TEST, n, num_images, {})
    )
    answers: Answers = model.answer(logits, features, test.images)
    tested = AnsweredTest.of(answers, done.predictions)
    return FittedAnswers(model, body, tested, answer_figures([done.predictions], [tested]))


def _held_out(
    training: AnswerTraining,
    train_side: SplitImages,
    final: tuple[np.ndarray, np.ndarray],
    synthetic: SyntheticImages | None,
    settings: TrainerSettings,
    progress: ProgressFn,
    stages: TrainingStages,
) -> tuple[HeldOut | None, str]:
    """Answers to held-out training images, or why there are none."""
    config, hparams = training.config, training.hparams
    if not training.num_folds:
        return None, NOT_ASKED
    real = labelled(train_side, config.class_ids)
    is_new = ~seen_by_base(training.dataset, train_side.digests, training.base_manifest)
    for label, class_id in enumerate(config.class_ids):
        if not is_new[real.labels == label].any():
            return None, f"the base has seen every training image of class {class_id}"
    groups = training_groups(training.dataset, train_side.digests)
    try:
        folds = assign_folds(
            real.labels, groups, config.class_ids, training.num_folds, hparams.seed
        )
    except FailedPrecondition as error:
        return None, f"{error.problem}; {error.remedy}"
    held_out = cross_fit(
        hparams, config, real, folds, final, synthetic, settings, progress, stages, is_new
    )
    return held_out, ""
