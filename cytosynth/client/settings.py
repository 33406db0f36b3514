"""Settings of requests, as immutable records named like the API's messages.

A value that is left out (``None``, ``""`` or empty) is the preset's or the server's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SplitSettings:
    """How a dataset is split into training and test images.

    Attributes:
        shots: Few-shot training images per class; 0: all but the test share.
        class_shots: Shots of single classes, which override ``shots``.
        max_test_per_class: Most test images per class; 0: all that remain.
        seed: Seed of the split, 0 to 2^63 - 1.
    """

    shots: int = 0
    class_shots: Mapping[str, int] = field(default_factory=dict)
    max_test_per_class: int = 0
    seed: int = 0


@dataclass(frozen=True)
class AdapterSettings:
    """LoRA training of a diffusion base (Hu et al. 2021).

    Attributes:
        preset: ``cpu`` or ``paper``.
        rank: Rank of the LoRA matrices, 1 to 256.
        alpha: LoRA alpha, above 0.
        num_steps: Optimizer steps per adapter.
        batch_size: Images per step.
        learning_rate: Peak learning rate, above 0, at most 1.
        per_class: One adapter per class instead of one for all classes.
        seed: Seed, 0 to 2^63 - 1.
    """

    preset: str = ""
    rank: int | None = None
    alpha: float | None = None
    num_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    per_class: bool | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ClassifierSettings:
    """Training of a classifier.

    Attributes:
        architecture: ``resnet18``, ``resnet50`` or ``clip``.
        preset: ``cpu`` or ``paper``.
        clip_base: CLIP base; CLIP only.
        resnet_base: ResNet base to start from; ResNets only. Empty: from scratch.
        num_steps: Optimizer steps.
        batch_size: Real images per step.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay.
        image_size: Width and height of the input, pixels, 32 to 1024.
        seed: Seed, 0 to 2^63 - 1.
        num_calibration_folds: Parts of the training images that are held out in turn to calibrate
            answers, 2 to 10; 0: no calibration. None: 3.
    """

    architecture: str = ""
    preset: str = ""
    clip_base: str = ""
    resnet_base: str = ""
    num_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    image_size: int | None = None
    seed: int | None = None
    num_calibration_folds: int | None = None


@dataclass(frozen=True)
class AnswerOptions:
    """Wanted contents of an answer, and its assumptions.

    Attributes:
        class_priors: Expected share of each class among the laboratory's cells, for example a
            differential count; must sum to 1. Empty: the shares of training.
        estimate_priors: Estimate the shares from the images of each call, at least 50.
        coverage: Chance with which a prediction set holds the true class. None: 0.9.
        top_k: Most probabilities to answer with; 0: all.
        saliency: Draw what the answer rests on. Slow.
    """

    class_priors: Mapping[str, float] = field(default_factory=dict)
    estimate_priors: bool = False
    coverage: float | None = None
    top_k: int = 0
    saliency: bool = False


@dataclass(frozen=True)
class SamplerSettings:
    """How an image is denoised.

    Attributes:
        preset: ``draft``, ``fast``, ``balanced`` or ``paper``.
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance scale.
        scheduler: ``dpmpp_2m``, ``ddim``, ``unipc`` or ``bespoke`` (the base's own solver).
        guidance_start: Share of the steps, 0 to 1, at which guidance begins.
        guidance_stop: Share of the steps, 0 to 1, at which guidance ends.
        decoder: ``full`` or ``tiny``.
    """

    preset: str = ""
    num_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str = ""
    guidance_start: float | None = None
    guidance_stop: float | None = None
    decoder: str = ""


@dataclass(frozen=True)
class SynthesisSettings:
    """How the images of one request are synthesized.

    Attributes:
        adapter: ``adapters/{adapter}``; empty: the base alone.
        base: Base model; empty: the adapter's, or the server's default.
        seed: Seed of the whole request, 0 to 2^63 - 1.
        sampler: Denoising.
        priority: ``interactive`` or ``bulk``; empty: by the number of images.
        image_format: ``png``, ``jpeg`` or ``webp``.
    """

    adapter: str = ""
    base: str = ""
    seed: int = 0
    sampler: SamplerSettings = SamplerSettings()
    priority: str = ""
    image_format: str = "png"


@dataclass(frozen=True)
class SyntheticSettings:
    """The synthetic part of a training set.

    Attributes:
        adapter: ``adapters/{adapter}``.
        num_per_class: Synthetic images per class, 1 to 100000.
        seed: Seed of the synthesis.
        sampler: Denoising.
        loss_weight: Weight of the synthetic part of the loss, 0 to 1.
    """

    adapter: str
    num_per_class: int
    seed: int = 0
    sampler: SamplerSettings = SamplerSettings()
    loss_weight: float | None = None


@dataclass(frozen=True)
class StudySettings:
    """What a study compares.

    Attributes:
        preset: ``evidence``, ``informed`` or ``paper``.
        models: Classifier architectures.
        arms: ``real_only`` and what is compared with it.
        num_per_class: Amounts of synthetic images per class, ascending.
        num_draws: Splits of the dataset, each with models of its own.
        shots: Few-shot training images per class; 0: all but the test share.
        class_shots: Shots of single classes, which override ``shots``.
        max_test_per_class: Most test images per class; 0: all that remain.
        seed: Seed of the first split; every further one has a seed one higher.
        base: Base diffusion model.
        clip_base: CLIP base.
        num_steps: Optimizer steps of every classifier.
        adapter_steps: Optimizer steps of every adapter.
        sampler_preset: As ``SamplerSettings.preset``.
        loss_weight: Weight of the synthetic part of the loss, 0 to 1.
        transfer_resnet_base: ResNet base of the transfer arms.
        transfer_clip_base: CLIP base of the transfer arms.
        feature_space: CLIP base or ``inception``, for image quality.
        hide_images: Leave real images out of the report.
    """

    preset: str = ""
    models: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    num_per_class: tuple[int, ...] = ()
    num_draws: int | None = None
    shots: int | None = None
    class_shots: Mapping[str, int] = field(default_factory=dict)
    max_test_per_class: int | None = None
    seed: int | None = None
    base: str = ""
    clip_base: str = ""
    num_steps: int | None = None
    adapter_steps: int | None = None
    sampler_preset: str = ""
    loss_weight: float | None = None
    transfer_resnet_base: str = ""
    transfer_clip_base: str = ""
    feature_space: str = ""
    hide_images: bool = False
