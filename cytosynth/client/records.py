"""What the services answer, as plain immutable records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cytosynth.client.errors import CytosynthError

FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class DatasetClass:
    """One class of a dataset; ``left_out_reason`` is empty if it was split."""

    class_id: str
    num_images: int
    num_train: int
    num_test: int
    left_out_reason: str


@dataclass(frozen=True)
class Dataset:
    """Images with a split that was locked before anything was trained.

    Attributes:
        name: ``datasets/{dataset}``.
        center_crop: Share of each image's shorter side that is kept, 0 to 1.
        notices: What was corrected or left out while reading.
    """

    name: str
    display_name: str
    create_time: datetime | None
    classes: tuple[DatasetClass, ...]
    split_digest: str
    center_crop: float
    notices: tuple[str, ...]

    @property
    def num_train(self) -> int:
        """Few-shot training images of all classes."""
        return sum(item.num_train for item in self.classes)

    @property
    def num_test(self) -> int:
        """Locked test images of all classes."""
        return sum(item.num_test for item in self.classes)


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA adapter, ``adapters/{adapter}``."""

    name: str
    base: str
    dataset: str
    class_ids: tuple[str, ...]
    create_time: datetime | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    manifest_digest: str


@dataclass(frozen=True)
class Classifier:
    """A trained classifier; ``synthetic`` is None for real images alone."""

    name: str
    dataset: str
    settings: Mapping[str, Any]
    synthetic: Mapping[str, Any] | None
    image_set: str
    class_ids: tuple[str, ...]
    create_time: datetime | None
    metrics: Mapping[str, float]
    manifest_digest: str


@dataclass(frozen=True)
class Progress:
    """Progress of a job; totals and ``eta_seconds`` are 0 while unknown."""

    phase: str
    step: int
    total_steps: int
    eta_seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Job:
    """Slow work on the server; ``state`` is for example ``RUNNING``."""

    name: str
    kind: str
    state: str
    progress: Progress
    result: str
    error: CytosynthError | None
    create_time: datetime | None
    update_time: datetime | None
    num_attempts: int

    @property
    def done(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class DeletionProof:
    """What a deletion removed; ``digest`` covers paths and contents."""

    name: str
    num_objects: int
    digest: str
    delete_time: datetime | None


@dataclass(frozen=True)
class Model:
    """A classifier in service: a version that never changes."""

    name: str
    architecture: str
    class_ids: tuple[str, ...]
    create_time: datetime | None
    metrics: Mapping[str, float]
    manifest_digest: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Alias:
    """A name such as ``aliases/production`` and the classifier behind it."""

    name: str
    model: str
    previous_model: str
    update_time: datetime | None


@dataclass(frozen=True)
class AnswerContext:
    """What the answers of a call have in common.

    Attributes:
        manifest_digest: SHA-256 (hex) of the classifier's manifest.
        request_id: Names the call in the services' logs.
        calibrated: Whether probabilities are calibrated.
        conformal: Whether prediction sets are given, at ``coverage``.
        coverage: Chance with which a set holds the true class.
        prior_source: ``training``, ``request`` or ``estimated``; empty from earlier servers.
        class_priors: Class shares assumed.
        runtime: What computed the probabilities, for example ``torch``.
    """

    manifest_digest: str = ""
    request_id: str = ""
    calibrated: bool = False
    conformal: bool = False
    coverage: float = 0.0
    prior_source: str = ""
    class_priors: Mapping[str, float] = field(default_factory=dict)
    runtime: str = ""


@dataclass(frozen=True)
class Classification:
    """One image's classes.

    Attributes:
        class_id: The most probable class.
        probability: Its probability, 0 to 1.
        probabilities: Every class (or ``top_k``), most probable first; all of them sum to 1.
        model: The classifier that answered, ``classifiers/{classifier}``.
        prediction_set: Classes that hold the true one with the chance ``context.coverage``.
        out_of_distribution_score: How unlike the training cells; 1 is the 99th percentile of
            held-out cells. None if the classifier does not know.
        needs_review: Whether a haematologist ought to look.
        review_reasons: Why, for example ``blurred`` or ``unknown_class``.
        saliency_png: PNG of what speaks for ``class_id``; empty unless asked for.
        image_sha256: SHA-256 (hex) of the encoded image.
        notices: What was ignored while the image was read.
        context: What the answers of a call have in common.
    """

    class_id: str
    probability: float
    probabilities: Mapping[str, float]
    model: str
    prediction_set: tuple[str, ...] = ()
    out_of_distribution_score: float | None = None
    needs_review: bool = False
    review_reasons: tuple[str, ...] = ()
    saliency_png: bytes = b""
    image_sha256: str = ""
    notices: tuple[str, ...] = ()
    context: AnswerContext = field(default_factory=AnswerContext)


@dataclass(frozen=True)
class Synthetic:
    """The synthetic part of a training set; deprecated for ``SyntheticSettings``."""

    adapter: str
    num_per_class: int
    seed: int = 0
    preset: str = ""
    num_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str = ""
    loss_weight: float | None = None


@dataclass(frozen=True)
class ReportArm:
    """One column of a report: model, arm and classifier."""

    model: str
    arm: str
    classifier: str


@dataclass(frozen=True)
class Report:
    """A report without its files; ``kind`` is ``report`` or ``study``."""

    name: str
    kind: str
    dataset: str
    title: str
    create_time: datetime | None
    manifest_digest: str
