"""Builds, trains and tests one classifier; storing it is the caller's.

Imports torch; the trainer's front does not load it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model, probabilities, save_model
from services.common.models.clip_bases import ClipBase
from services.common.models.image_classifier import ImageClassifier
from services.common.models.resnet_bases import ResNetBase
from services.common.models.resnet_classifier import load_initial_weights
from services.trainer.classifiers.pretrained import classifier_base
from services.trainer.classifiers.recipe import Hyperparameters
from services.trainer.classifiers.stages import TrainingStages
from services.trainer.classifiers.training import train
from services.trainer.classifiers.training_images import (
    LabelledImages,
    SyntheticImages,
    labelled,
)
from services.trainer.compute.training_run import Checkpoints, ProgressFn
from services.trainer.config import TrainerSettings
from services.trainer.datasets.reading import SplitImages
from services.trainer.evaluation.predictions import Predictions

PHASE_TEST = "testing classifier"
_BATCH_SIZE = 32
#: What the training leaves for the stages after it.
_WEIGHTS, _FIGURES = "final.safetensors", "final.json"


@dataclass(frozen=True)
class TestedClassifier:
    """A trained model with its training figures and test answers."""

    model: ImageClassifier
    figures: dict[str, float]
    predictions: Predictions


def classifier_config(
    hparams: Hyperparameters, class_ids: list[str], settings: TrainerSettings
) -> tuple[ClassifierConfig, ClipBase | ResNetBase | None]:
    """Config of the classifier, and the base that it starts from."""
    base = classifier_base(hparams, settings.models_dir)
    clip = base if isinstance(base, ClipBase) else None
    config = ClassifierConfig(
        architecture=hparams.architecture,
        class_ids=tuple(class_ids),
        image_size=hparams.image_size or (clip.image_size_px if clip else 0) or 224,
        clip_base=hparams.clip_base,
        clip_revision=clip.revision if clip else "",
        lora_rank=hparams.lora_rank,
        lora_alpha=hparams.lora_alpha,
        lora_mlp=hparams.lora_mlp,
    )
    return config, base


def initial_model(
    hparams: Hyperparameters, config: ClassifierConfig, settings: TrainerSettings
) -> ImageClassifier:
    """A fresh classifier: random weights of its seed, or its base's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hparams.seed)
        model = build_model(config, settings.models_dir)
    base = classifier_base(hparams, settings.models_dir)
    if isinstance(base, ResNetBase):
        load_initial_weights(model, base)
    return model


def train_and_test(
    model: ImageClassifier,
    hparams: Hyperparameters,
    config: ClassifierConfig,
    real: LabelledImages,
    synthetic: SyntheticImages | None,
    load_test: Callable[[], SplitImages],
    settings: TrainerSettings,
    progress: ProgressFn,
    checkpoints: Checkpoints,
) -> TestedClassifier:
    """Trains a classifier and asks it about the locked test images.

    Args:
        model: Fresh; trained in place.
        hparams: How to train; its seed decides about everything random.
        config: Architecture, classes and image size.
        real: Few-shot images, uint8 (N, S, S, 3) with S ``config.image_size``.
        synthetic: Synthetic images, or None.
        load_test: Gives the locked test split, of the same size; read after the training.
        settings: Models folder and device.
        progress: Called once a step; may raise to stop.
        checkpoints: Saved to when due, and resumed from.
    """
    device = torch.device(settings.torch_device())
    figures = train(model, real, synthetic, hparams, device, progress, checkpoints)
    return TestedClassifier(model, figures, predict(model, config, load_test(), settings, progress))


def train_and_test_once(
    model: ImageClassifier,
    hparams: Hyperparameters,
    config: ClassifierConfig,
    real: LabelledImages,
    synthetic: SyntheticImages | None,
    load_test: Callable[[], SplitImages],
    settings: TrainerSettings,
    progress: ProgressFn,
    stages: TrainingStages,
) -> TestedClassifier:
    """As ``train_and_test``; a training that ``stages`` has kept is not repeated."""
    weights, figures = stages.kept(_WEIGHTS), stages.kept(_FIGURES)
    if weights is None or figures is None:
        done = train_and_test(
            model, hparams, config, real, synthetic, load_test, settings, progress,
            stages.checkpoints(),
        )  # fmt: skip
        stages.keep(_WEIGHTS, save_model(done.model)["model.safetensors"])
        stages.keep(_FIGURES, json.dumps(done.figures).encode())
        return done
    model.load_learned_state(load_tensors(weights))
    model.to(torch.device(settings.torch_device())).eval()
    predictions = predict(model, config, load_test(), settings, progress)
    return TestedClassifier(model, json.loads(figures), predictions)


def predict(
    model: ImageClassifier,
    config: ClassifierConfig,
    test: SplitImages,
    settings: TrainerSettings,
    progress: ProgressFn,
) -> Predictions:
    """Answers on the locked test images, in the arithmetic of serving."""
    device, answers = torch.device(settings.torch_device()), []
    for start in range(0, len(test.images), _BATCH_SIZE):
        progress(PHASE_TEST, start, len(test.images), {})
        answers.append(probabilities(model, test.images[start : start + _BATCH_SIZE], device))
    return Predictions(
        class_ids=config.class_ids,
        digests=test.digests,
        labels=labelled(test, config.class_ids).labels,
        probabilities=np.concatenate(answers),
    )
