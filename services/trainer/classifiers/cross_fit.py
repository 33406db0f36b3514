"""Answers to training images from networks that did not learn from them.

Each fold of the training images is held out from a network of its own, trained as the final one but
for fewer steps. Its answers are brought to the final network's scale, which does not change.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from safetensors.numpy import load, save

from services.common.answers.fitting import HeldOut
from services.common.answers.outliers import distances
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import features_and_logits
from services.common.models.image_classifier import ImageClassifier
from services.common.seeds import MAX_SEED
from services.trainer.classifiers.fit import initial_model
from services.trainer.classifiers.recipe import Hyperparameters
from services.trainer.classifiers.stages import TrainingStages
from services.trainer.classifiers.training import train
from services.trainer.classifiers.training_images import LabelledImages, SyntheticImages
from services.trainer.compute.training_run import ProgressFn
from services.trainer.config import TrainerSettings

STEP_SHARE = 0.5
"""Steps of a fold's network, as a share of the final one's (docs/lab-notebook.md)."""
_BATCH_SIZE = 32


def cross_fit(
    hparams: Hyperparameters,
    config: ClassifierConfig,
    real: LabelledImages,
    folds_N: np.ndarray,
    final: tuple[np.ndarray, np.ndarray],
    synthetic: SyntheticImages | None,
    settings: TrainerSettings,
    progress: ProgressFn,
    stages: TrainingStages,
    is_held_out_N: np.ndarray | None = None,
) -> HeldOut:
    """Trains a network without each fold, and predicts the fold's images.

    Args:
        hparams: Hyperparameters of the final network.
        config: Architecture, classes and image size.
        real: All training images.
        folds_N: Fold of each image, from 0.
        final: Features (N, D) and logits (N, C) of the final network for these images.
        synthetic: Synthetic images of the final network, or None.
        settings: Models folder and device.
        progress: Called once a step; may raise to stop.
        stages: Checkpoints, where finished folds are kept.
        is_held_out_N: Images that may be asked about, bool; None: all.
    """
    device = torch.device(settings.torch_device())
    num_folds = int(folds_N.max()) + 1
    parts = []
    for fold in range(num_folds):
        name = f"fold-{fold}"
        part = stages.kept(name)
        if part is None:
            fold_hparams = fold_hyperparameters(hparams, fold)
            model = initial_model(fold_hparams, config, settings)
            report = _renamed(progress, f"calibrating: fold {fold + 1} of {num_folds}")
            is_learned, is_asked = folds_N != fold, folds_N == fold
            if is_held_out_N is not None:
                is_asked = is_asked & is_held_out_N
            learned, checkpoints = part_of(real, is_learned), stages.checkpoints(name)
            train(model, learned, synthetic, fold_hparams, device, report, checkpoints)
            final_learned = (final[0][is_learned], final[1][is_learned])
            asked = ask(model, learned, part_of(real, is_asked), final_learned, device)
            part = save(
                {"logits": asked.logits, "labels": asked.labels, "distances": asked.distances}
            )
            stages.keep(name, part)
        parts.append(load(part))
    joined = {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}
    return HeldOut(**joined)


def ask(
    model: ImageClassifier,
    learned: LabelledImages,
    asked: LabelledImages,
    final: tuple[np.ndarray, np.ndarray],
    device: torch.device,
) -> HeldOut:
    """Predictions on held-out images, on the final network's scale.

    Args:
        model: In eval mode, on ``device``.
        learned: What it learned from.
        asked: What it is asked about.
        final: The final network's features and logits for ``learned``.
        device: Device of the model.
    """
    bank, seen_logits = answers_of(model, learned.images, device)
    features, logits = answers_of(model, asked.images, device)
    held_out = HeldOut(logits, asked.labels, distances(features, bank))
    return held_out.matched(bank, seen_logits, *final)


def part_of(images: LabelledImages, is_in_N: np.ndarray) -> LabelledImages:
    """The images at which ``is_in_N`` is true."""
    return LabelledImages(images.images[is_in_N], images.labels[is_in_N])


def fold_hyperparameters(hparams: Hyperparameters, fold: int) -> Hyperparameters:
    """Hyperparameters of a fold: fewer steps, a seed of its own."""
    digest = hashlib.sha256(f"fold {fold} of {hparams.seed}".encode()).digest()
    num_steps = max(1, round(STEP_SHARE * hparams.num_steps))
    return dataclasses.replace(
        hparams,
        seed=int.from_bytes(digest[:8], "big") & MAX_SEED,
        num_steps=num_steps,
        warmup_steps=max(1, round(STEP_SHARE * hparams.warmup_steps)),
    )


def answers_of(
    model: ImageClassifier,
    images: np.ndarray,
    device: torch.device,
    on_batch: Callable[[int], None] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and logits (N, C) of any number of images.

    Args:
        model: In eval mode, on ``device``.
        images: uint8 (N, S, S, 3).
        device: Device of the model.
        on_batch: Receives the number of images done, before each batch; may raise to stop.
    """
    parts = []
    for start in range(0, max(1, len(images)), _BATCH_SIZE):
        on_batch(start)
        parts.append(features_and_logits(model, images[start : start + _BATCH_SIZE], device))
    return np.concatenate([f for f, _ in parts]), np.concatenate([g for _, g in parts])


def _renamed(progress: ProgressFn, phase: str) -> ProgressFn:
    def report(_: str, step: int, total: int, metrics: dict[str, float]) -> None:
        progress(phase, step, total, metrics)

    return report
