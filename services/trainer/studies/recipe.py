"""Settings of a study: arms, models, amounts of synthetic images, replicates.

Light to import: the trainer's front checks requests with it and never trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from cytosynth.cell_classes import narrower_classes
from cytosynth.phantoms import CELL_TYPES
from services.common.errors import InvalidArgument, check_one_of
from services.common.models.classifier_config import ARCHITECTURES
from services.common.models.sampler_presets import SAMPLER_PRESETS
from services.trainer.classifiers.recipe import Hyperparameters, hyperparameters_from_spec
from services.trainer.datasets.splitting import SplitSettings

REAL_ONLY = "real_only"
REAL_PLUS_SYNTHETIC = "real_plus_synthetic"
SYNTHETIC_ONLY = "synthetic_only"
BALANCED = "balanced"
"""Real images, every class filled up with synthetic ones to the largest."""
REAL_PLUS_PHANTOMS = "real_plus_phantoms"
REAL_PLUS_FURTHER_REAL = "real_plus_further_real"
"""Real images and further real ones: the most that a generator could bring."""
TRANSFER_REAL_ONLY = "transfer_real_only"
TRANSFER_REAL_PLUS_SYNTHETIC = "transfer_real_plus_synthetic"
ZERO_SHOT = "zero_shot"
ARMS = (
    REAL_ONLY,
    REAL_PLUS_SYNTHETIC,
    SYNTHETIC_ONLY,
    BALANCED,
    REAL_PLUS_PHANTOMS,
    REAL_PLUS_FURTHER_REAL,
    TRANSFER_REAL_ONLY,
    TRANSFER_REAL_PLUS_SYNTHETIC,
    ZERO_SHOT,
)
TRANSFER_ARMS = (TRANSFER_REAL_ONLY, TRANSFER_REAL_PLUS_SYNTHETIC)
SWEPT_ARMS = (REAL_PLUS_SYNTHETIC, SYNTHETIC_ONLY, TRANSFER_REAL_PLUS_SYNTHETIC)
SYNTHETIC_ARMS = (*SWEPT_ARMS, BALANCED)

RARE_CLASSES = ("promyelocyte", "metamyelocyte", "myelocyte", "basophil")
"""Classes of which the preset ``evidence`` has few images, as clinics do."""
MAX_DRAWS = 50
MAX_PER_CLASS = 5000
MAX_STUDY_SEED = 2**31 - 1


@dataclass(frozen=True)
class Trial:
    """One classifier of the sweep.

    Attributes:
        replicate: Number of the replicate, from 0.
        model: Architecture.
        arm: One of ``ARMS``.
        num_per_class: Synthetic (or phantom, or further real) images per class; 0: none.
    """

    replicate: int
    model: str
    arm: str
    num_per_class: int

    @property
    def path(self) -> str:
        """Path of the trial's answers."""
        name = f"{self.model}.{self.arm}.{self.num_per_class}"
        return f"trials/replicate-{self.replicate:02d}/{name}.json"

    @property
    def label(self) -> str:
        """Name in progress."""
        return f"{self.model}, {self.arm}" + (f" {self.num_per_class}" * bool(self.num_per_class))


@dataclass(frozen=True)
class StudySettings:
    """A study, every value resolved.

    Attributes:
        preset: Name of the preset that it started from.
        models: Architectures.
        arms: Arms to compare; ``real_only`` is always one of them.
        num_per_class: Amounts of synthetic images per class, ascending; the last is the one whose
            difference is the headline.
        num_draws: Replicates, each with its own split, adapter, synthetic images and classifiers.
        seed: Replicate *k* uses ``seed + k`` for everything random.
        shots: Few-shot training images per class.
        class_shots: Few-shot training images of single classes.
        rare_shots: Few-shot training images of those ``RARE_CLASSES`` that are there; 0: as of the
            others, as in every request that sets shots of its own.
        max_test_per_class: Most test images per class; 0: all that remain.
        base: Diffusion base.
        clip_base: CLIP base.
        num_steps: Optimizer steps of every classifier, the same for all arms; 0: the preset's.
        adapter_steps: Optimizer steps of every adapter; 0: the preset's.
        sampler_preset: How images are generated.
        loss_weight: Weight of the synthetic part of the loss.
        transfer_resnet_base: ResNet base from which the ``TRANSFER_ARMS`` of ResNets start; empty:
            there are none.
        transfer_clip_base: CLIP base from which the ``TRANSFER_ARMS`` of CLIP start; empty: there
            are none.
        feature_space: CLIP base, or ``inception``, in which image quality and nearness are
            measured; empty: ``clip_base``.
        hide_images: Whether the report shows no real image.
    """

    preset: str
    models: tuple[str, ...]
    arms: tuple[str, ...]
    num_per_class: tuple[int, ...]
    num_draws: int
    shots: int
    class_shots: Mapping[str, int] = field(default_factory=dict)
    rare_shots: int = 0
    max_test_per_class: int = 150
    seed: int = 0
    base: str = "cyto-small-phantoms"
    clip_base: str = "cyto-clip-phantoms"
    num_steps: int = 0
    adapter_steps: int = 0
    sampler_preset: str = "balanced"
    loss_weight: float = 0.5
    transfer_resnet_base: str = ""
    transfer_clip_base: str = ""
    feature_space: str = ""
    hide_images: bool = False

    def split(self, replicate: int, class_ids: list[str]) -> SplitSettings:
        """How a replicate of a dataset of these classes is split."""
        shots = dict(self.class_shots)
        if self.rare_shots:
            rare = [class_id for class_id in RARE_CLASSES if class_id in class_ids]
            shots |= dict.fromkeys(rare, self.rare_shots)
        return SplitSettings(self.shots, shots, self.max_test_per_class, self.seed + replicate)

    def trials(self, replicate: int) -> Iterator[Trial]:
        """Every classifier of one replicate."""
        for model in self.models:
            for arm in self.arms:
                if arm == ZERO_SHOT and model != "clip":
                    continue
                if arm in TRANSFER_ARMS and not self.transfer_base(model):
                    continue
                counts: tuple[int, ...] = (0,)
                if arm in SWEPT_ARMS:
                    counts = self.num_per_class
                elif arm in (REAL_PLUS_PHANTOMS, REAL_PLUS_FURTHER_REAL):
                    counts = self.num_per_class[-1:]
                for count in counts:
                    yield Trial(replicate, model, arm, count)

    def transfer_base(self, model: str) -> str:
        """Base from which ``TRANSFER_ARMS`` of a model start; empty: none."""
        return self.transfer_clip_base if model == "clip" else self.transfer_resnet_base

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self) | {"class_shots": dict(self.class_shots)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> StudySettings:
        """The settings that ``to_dict`` wrote."""
        lists = {name: tuple(data[name]) for name in ("models", "arms", "num_per_class")}
        return StudySettings(**{**data, **lists})

    @staticmethod
    def from_spec(spec: Mapping[str, Any], path: str = "settings") -> StudySettings:
        """A preset with what ``spec`` sets.

        Args:
            spec: The request's fields; missing, None or empty: the preset's.
            path: Request field of the settings, for errors.

        Raises:
            InvalidArgument: Naming the field whose value cannot be.
        """
        asked = {key: value for key, value in spec.items() if value not in (None, "", [], {})}
        preset = asked.pop("preset", "evidence")
        check_one_of(f"{path}.preset", preset, PRESETS)
        for name in ("models", "arms", "num_per_class"):
            if name in asked:
                asked[name] = tuple(asked[name])
        if {"shots", "class_shots"} & set(asked):
            asked["rare_shots"] = 0
        settings = dataclasses.replace(PRESETS[preset], **asked)
        for number, model in enumerate(settings.models):
            check_one_of(f"{path}.models[{number}]", model, ARCHITECTURES)
        for number, arm in enumerate(settings.arms):
            check_one_of(f"{path}.arms[{number}]", arm, ARMS)
        check_one_of(f"{path}.sampler_preset", settings.sampler_preset, SAMPLER_PRESETS)
        if REAL_ONLY not in settings.arms:
            problem = "real_only is missing"
            raise InvalidArgument(f"{path}.arms", problem, "add it: the others are compared to it")
        for name in ("models", "arms", "num_per_class"):
            values = getattr(settings, name)
            if len(set(values)) != len(values):
                raise InvalidArgument(f"{path}.{name}", "names something twice", "name each once")
        for number, count in enumerate(settings.num_per_class):
            _within(f"{path}.num_per_class[{number}]", count, 1, MAX_PER_CLASS)
        if list(settings.num_per_class) != sorted(settings.num_per_class):
            raise InvalidArgument(f"{path}.num_per_class", "is not ascending", "sort the amounts")
        _within(f"{path}.num_draws", settings.num_draws, 1, MAX_DRAWS)
        _within(f"{path}.seed", settings.seed, 0, MAX_STUDY_SEED)
        for name in ("num_steps", "adapter_steps"):
            _within(f"{path}.{name}", getattr(settings, name), 0, 1_000_000)
        weight = settings.loss_weight
        if not 0 <= weight <= 1:
            raise InvalidArgument(f"{path}.loss_weight", f"is {weight}", "send 0 to 1")
        settings.split(0, []).validate(path)
        return settings


class StudySpec(TypedDict):
    """Checked request: resolved settings, and revisions of all pretrained models."""

    dataset: str
    title: str
    settings: dict[str, Any]
    revisions: dict[str, str]


PRESETS = {
    "evidence": StudySettings(
        preset="evidence",
        models=("resnet18", "clip"),
        arms=tuple(a for a in ARMS if a not in (SYNTHETIC_ONLY, BALANCED, REAL_PLUS_FURTHER_REAL)),
        num_per_class=(200,),
        num_draws=5,
        shots=32,
        rare_shots=8,
    ),
    "informed": StudySettings(
        preset="informed",
        models=("resnet18", "clip"),
        arms=(REAL_ONLY, REAL_PLUS_SYNTHETIC, TRANSFER_REAL_ONLY, TRANSFER_REAL_PLUS_SYNTHETIC),
        num_per_class=(200,),
        num_draws=10,
        shots=8,
        base="cyto-small",
        transfer_resnet_base="cyto-resnet",
        transfer_clip_base="cyto-clip",
    ),
    "paper": StudySettings(
        preset="paper",
        models=("resnet50", "clip"),
        arms=tuple(arm for arm in ARMS if arm != REAL_PLUS_FURTHER_REAL),
        num_per_class=(100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 2000, 3000, 5000),
        num_draws=5,
        shots=16,
        max_test_per_class=0,
        base="",
        clip_base="",
        sampler_preset="paper",
    ),
}
"""Presets of studies by name.

``evidence``: a new laboratory and bases that never saw a real cell, long-tailed few-shot.
``informed``: a new laboratory and bases that know another's cells, few images. ``paper``: its table
(5 replicates for 5 folds, 16 shots)."""


def hyperparameters_of(study: StudySettings, trial: Trial) -> Hyperparameters:
    """Hyperparameters of one classifier, the same for all arms of a replicate.

    Further real images are the exception, as they count in full in every class: that arm is the
    most that any generator could bring, and nothing is wrong with its images.
    """
    settings: dict[str, str | int] = {
        "preset": "paper" if study.preset == "paper" else "cpu",
        "architecture": trial.model,
        "seed": study.seed + trial.replicate,
    }
    if study.num_steps:
        settings["num_steps"] = study.num_steps
    transfers = trial.arm in TRANSFER_ARMS
    if transfers and trial.model != "clip":
        settings["resnet_base"] = study.transfer_resnet_base
    clip_base = study.transfer_clip_base if transfers else study.clip_base
    spec = {"settings": settings, "synthetic": {"loss_weight": study.loss_weight}}
    hparams = hyperparameters_from_spec(spec, clip_base)
    if trial.arm == REAL_PLUS_FURTHER_REAL:
        return dataclasses.replace(hparams, enough_real=0)
    return hparams


def phantom_classes(class_ids: list[str]) -> list[str]:
    """The phantom of each class; empty if one has none."""
    names = [narrower_classes(class_id)[0] for class_id in class_ids]
    return names if set(names) <= set(CELL_TYPES) else []


def _within(path: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(path, f"is {value}", f"send {low} to {high}")
