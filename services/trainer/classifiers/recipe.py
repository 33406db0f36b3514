"""Hyperparameters of classifiers: presets, and checks of requests.

Light to import: the trainer's front checks requests with it and never trains.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import InvalidArgument, check_one_of
from services.common.models.classifier_config import ARCHITECTURES, RESNETS
from services.common.seeds import MAX_SEED
from services.trainer.augmentation.settings import AugmentSettings

PRESETS = ("cpu", "paper")
DEFAULT_CALIBRATION_FOLDS = 3
_MAX_CALIBRATION_FOLDS = 10
_FINE_TUNING_RATE = 5e-4
"""Peak learning rate from pretrained weights: a higher one forgets them."""


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of a classifier, every value resolved.

    Attributes:
        image_size: Size of the input, pixels; 0: that of the CLIP base.
        num_steps: Optimizer steps, the same for every arm.
        batch_size: Real images per step, the same for every arm.
        synthetic_batch_size: Synthetic images that a step adds where there are any.
        learning_rate: AdamW's peak rate.
        average_decay: Decay per step of the average of weights that is kept in the end.
        resnet_base: ResNet base whose weights it starts from; empty: from scratch.
        loss_weight: Weight of the synthetic part of the loss, 0 to 1.
        enough_real: Real images of a class up to which its synthetic ones count in full; beyond,
            they count in inverse proportion. 0: always in full.
        lora_mlp: Whether CLIP's MLPs carry LoRA too, not the attention alone.
    """

    preset: str
    architecture: str
    image_size: int
    num_steps: int
    batch_size: int
    synthetic_batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_base: str = ""
    resnet_base: str = ""
    label_smoothing: float = 0.1
    average_decay: float = 0.97
    max_gradient_norm: float = 1.0
    loss_weight: float = 0.5
    enough_real: int = 8
    lora_rank: int = 16
    lora_alpha: float = 16.0
    lora_mlp: bool = True
    seed: int = 0
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def with_augment(self, augment: AugmentSettings) -> Hyperparameters:
        """These hyperparameters with another augmentation."""
        return dataclasses.replace(self, augment=augment)

    def settings(self) -> dict[str, str | int | float]:
        """The filled-in ``ClassifierSettings`` of the API."""
        names = ["preset", "architecture", "clip_base", "resnet_base", "num_steps", "batch_size"]
        names += ["learning_rate", "weight_decay", "image_size", "seed"]
        return {name: getattr(self, name) for name in names}


def preset_hyperparameters(preset: str, architecture: str) -> Hyperparameters:
    """Hyperparameters of a preset, before a request changes any."""
    clip = architecture == "clip"
    if preset == "paper":
        return Hyperparameters(
            preset=preset,
            architecture=architecture,
            image_size=0 if clip else 384,
            num_steps=12_000,
            batch_size=64,
            synthetic_batch_size=64,
            learning_rate=1e-4,
            weight_decay=1e-4,
            warmup_steps=3_600,  # 30 of the paper's 100 epochs
            average_decay=0.999,
            enough_real=0,
            lora_mlp=False,
            augment=AugmentSettings(mix=0.5, stain_transfer=0.0),
        )
    return Hyperparameters(
        preset=preset,
        architecture=architecture,
        image_size=0 if clip else 64,
        num_steps=480,
        batch_size=32,
        synthetic_batch_size=16,
        learning_rate=2e-3,
        weight_decay=1e-2 if clip else 5e-2,
        warmup_steps=48,
    )


def hyperparameters_from_spec(spec: Mapping[str, Any], default_clip: str) -> Hyperparameters:
    """Hyperparameters that a ``CreateClassifierRequest`` asks for.

    Args:
        spec: The request's fields; ``settings`` and ``synthetic`` may be unset.
        default_clip: CLIP base where none is named.

    Raises:
        InvalidArgument: Naming the field, if a value is unknown or out of range.
    """
    asked = {k: v for k, v in (spec.get("settings") or {}).items() if v not in (None, "")}
    asked.pop("num_calibration_folds", None)  # does not change how the classifier is trained
    preset = asked.pop("preset", "cpu")
    check_one_of("settings.preset", preset, PRESETS)
    architecture = asked.pop("architecture", "resnet50" if preset == "paper" else "resnet18")
    check_one_of("settings.architecture", architecture, ARCHITECTURES)
    clip_base = asked.pop("clip_base", "")
    if clip_base and architecture != "clip":
        raise InvalidArgument(
            "settings.clip_base", f"is set for {architecture}", "leave it empty, or ask for clip"
        )
    if asked.get("resnet_base") and architecture not in RESNETS:
        problem, remedy = f"is set for {architecture}", "leave it empty, or ask for a ResNet"
        raise InvalidArgument("settings.resnet_base", problem, remedy)
    for name, low, high in (
        ("num_steps", 1, 1_000_000),
        ("batch_size", 2, 1024),
        ("image_size", 32, 1024),
        ("seed", 0, MAX_SEED),
    ):
        _whole_number(f"settings.{name}", asked.get(name), low, high)
    _number("settings.learning_rate", asked.get("learning_rate"), 0.0, 1.0, above=True)
    _number("settings.weight_decay", asked.get("weight_decay"), 0.0, 1.0)
    hparams = preset_hyperparameters(preset, architecture)
    if asked.get("resnet_base"):
        rate = min(hparams.learning_rate, _FINE_TUNING_RATE)
        hparams = dataclasses.replace(hparams, learning_rate=rate)
    if "num_steps" in asked:
        warmup = round(hparams.warmup_steps * asked["num_steps"] / hparams.num_steps)
        hparams = dataclasses.replace(hparams, warmup_steps=max(1, warmup))
    if "batch_size" in asked:
        share = hparams.synthetic_batch_size / hparams.batch_size
        added = max(2, round(asked["batch_size"] * share))  # BatchNorm wants two images
        hparams = dataclasses.replace(hparams, synthetic_batch_size=added)
    if architecture == "clip":
        asked["clip_base"] = clip_base or default_clip
    weight = (spec.get("synthetic") or {}).get("loss_weight")
    _number("synthetic.loss_weight", weight, 0.0, 1.0)
    if weight is not None:
        asked["loss_weight"] = weight
    return dataclasses.replace(hparams, **asked)


def calibration_folds_from_spec(spec: Mapping[str, Any]) -> int:
    """Folds of the training images on which answers are calibrated; 0: none.

    Raises:
        InvalidArgument: If the number is out of range.
    """
    asked = (spec.get("settings") or {}).get("num_calibration_folds")
    folds = DEFAULT_CALIBRATION_FOLDS if asked is None else asked
    if folds != 0 and not 2 <= folds <= _MAX_CALIBRATION_FOLDS:
        remedy = f"send 2 to {_MAX_CALIBRATION_FOLDS}, or 0 for answers without calibration"
        raise InvalidArgument("settings.num_calibration_folds", f"is {folds}", remedy)
    return int(folds)


def _whole_number(path: str, value: Any, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidArgument(path, f"is {value}", f"send {low} to {high}")


def _number(path: str, value: Any, low: float, high: float, above: bool = False) -> None:
    if value is None:
        return
    if not math.isfinite(value) or not low <= value <= high or (above and value == low):
        bound = f"more than {low:g}" if above else f"{low:g}"
        raise InvalidArgument(path, f"is {value}", f"send {bound} to {high:g}")
