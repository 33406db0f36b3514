"""Repeatable training of classifiers, with the same real batches in both arms."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import Cancelled
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model, save_model
from services.trainer.classifiers.recipe import (
    Hyperparameters,
    preset_hyperparameters,
)
from services.trainer.classifiers.training import (
    learning_rate,
    pick_balanced,
    synthetic_share,
    synthetic_weights,
    train,
)
from services.trainer.classifiers.training_images import LabelledImages
from tests.support.few_shot import (
    CLASSES,
    MemoryCheckpoints,
    cell_image,
)

CPU = torch.device("cpu")


def some_images(count: int = 6, first: int = 0) -> LabelledImages:
    images = [cell_image(c, first + n, 32) for c in CLASSES for n in range(count)]
    return LabelledImages(np.stack(images), np.repeat(np.arange(3), count))


class ReadySynthetic:
    """Synthetic images that have all come; notes which shares were asked for."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self._images = some_images(20, 500)

    def wait_for(self, share: float) -> LabelledImages:
        self.shares.append(share)
        return self._images


def fit(
    hparams: Hyperparameters,
    synthetic: Any = None,
    checkpoints: Any = None,
    progress: Callable[..., None] = lambda *_: None,
) -> str:
    """The weights' digest; pytest takes minutes to show where 45 MB differ."""
    torch.manual_seed(hparams.seed)
    model = build_model(ClassifierConfig("resnet18", CLASSES, 32), Path("unused"))
    train(
        model,
        some_images(),
        synthetic,
        hparams,
        CPU,
        progress,
        checkpoints or MemoryCheckpoints(),
    )
    return hashlib.sha256(save_model(model)["model.safetensors"]).hexdigest()


def quick_hparams(**changes: Any) -> Hyperparameters:
    hparams = preset_hyperparameters("cpu", "resnet18")
    return dataclasses.replace(
        hparams, num_steps=6, batch_size=6, synthetic_batch_size=6, image_size=32, **changes
    )


def test_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    assert fit(quick_hparams()) == fit(quick_hparams())
    assert fit(quick_hparams()) != fit(quick_hparams(seed=1))


def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one() -> None:
    checkpoints = MemoryCheckpoints(every=4)

    def stop_after_five(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit(quick_hparams(), ReadySynthetic(), checkpoints, stop_after_five)
    assert checkpoints.state == {"step": 4}
    assert fit(quick_hparams(), ReadySynthetic(), checkpoints) == fit(
        quick_hparams(), ReadySynthetic()
    )


def test_both_arms_take_the_same_steps_on_the_same_real_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from services.trainer.classifiers import training as train_classifier

    seen: list[tuple[int, torch.Tensor]] = []
    draw = train_classifier.sample_batch

    def spy(source: Any, *rest: Any) -> Any:
        batch = draw(source, *rest)
        seen.append((len(source.labels), batch[0].clone()))
        return batch

    monkeypatch.setattr(train_classifier, "sample_batch", spy)
    fit(quick_hparams())
    alone = [x for n, x in seen if n == 18]
    seen.clear()
    fit(quick_hparams(), ReadySynthetic())
    together = [x for n, x in seen if n == 18]
    assert len(alone) == len(together) > 6
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len([n for n, _ in seen if n == 60]) == 6


def test_loss_weight_zero_ignores_synthetic_images() -> None:
    assert fit(quick_hparams(loss_weight=0.0), ReadySynthetic()) == fit(quick_hparams())


def test_synthetic_images_count_less_in_classes_with_many_real_ones() -> None:
    labels = np.repeat([0, 1, 2], [4, 8, 32])
    assert synthetic_weights(labels, 4, 8).tolist() == [1, 1, 0.25, 1]
    assert synthetic_weights(labels, 4, 0).tolist() == [1, 1, 1, 1]
    # Six real images of each class: enough at three, so that all count half.
    half = fit(quick_hparams(enough_real=3), ReadySynthetic())
    full = fit(quick_hparams(enough_real=6), ReadySynthetic())
    assert half != full == fit(quick_hparams(enough_real=0), ReadySynthetic())
    assert fit(quick_hparams(enough_real=3)) == fit(quick_hparams(enough_real=6))


def test_share_of_synthetic_images_grows_to_all_and_depends_on_the_step_alone() -> None:
    shares = [synthetic_share(step, 200) for step in range(200)]
    assert shares[0] < 0.2 and shares[120] == 1.0
    assert shares == sorted(shares)
    source = ReadySynthetic()
    fit(quick_hparams(), source)
    assert source.shares == [synthetic_share(step, 6) for step in range(6)]


def test_batches_hold_every_class_equally_often() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 7)
    picked = pick_balanced(labels, 30, torch.Generator().manual_seed(0))
    assert np.bincount(labels[picked]).tolist() == [10, 10, 10]
    odd = pick_balanced(labels, 32, torch.Generator().manual_seed(0))
    assert max(np.bincount(labels[odd])) - min(np.bincount(labels[odd])) <= 1


def test_learning_rate_warms_up_then_falls() -> None:
    hparams = dataclasses.replace(quick_hparams(), num_steps=100, warmup_steps=10)
    rates = [learning_rate(step, hparams) for step in range(100)]
    assert rates[9] == max(rates) == hparams.learning_rate
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
