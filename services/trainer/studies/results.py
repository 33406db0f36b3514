"""Results of a study; the keys of ``report.json`` are a public format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from services.trainer.evaluation.feature_space import FeatureSpaceName
from services.trainer.evaluation.memorization import ComparisonFigures, NearestFigures
from services.trainer.evaluation.metrics import Figures
from services.trainer.evaluation.triplets import ShownTriplet
from services.trainer.reports.content import DatasetFacts

if TYPE_CHECKING:  # both import torch
    from services.trainer.adapters.membership_inference import Audit
    from services.trainer.evaluation.image_quality import ReferencedQuality


class Difference(TypedDict):
    """Paired difference of a metric between two arms, with 95 % interval."""

    mean: float
    low: float
    high: float


Differences = dict[str, Difference]
"""By metric."""


class ArmFigures(Figures):
    """Figures of one arm over all replicates; metrics are means."""

    class_ids: list[str]
    num_draws: int
    num_tested: list[int]
    per_draw_macro_f1: list[float]


class QualityFigure(TypedDict):
    """A measure over the replicates that have it."""

    mean: float
    sd: float | None
    num_draws: int
    interval: NotRequired[list[float] | None]


class QualityRow(TypedDict):
    """All measures of one class, or of all; counts by replicate."""

    n_real: list[int]
    n_synthetic: list[int]
    fid_comparable: bool
    notes: list[str]
    fid: QualityFigure | None
    kid: QualityFigure | None
    cmmd: QualityFigure | None
    precision: QualityFigure | None
    recall: QualityFigure | None
    density: QualityFigure | None
    coverage: QualityFigure | None


class QualityRows(TypedDict):
    """Measures overall and by class id."""

    overall: QualityRow
    per_class: dict[str, QualityRow]


class Quality(QualityRows):
    """Image quality, with a real-to-real reference."""

    feature_space: FeatureSpaceName
    num_draws: int
    real_against_real: QualityRows


class NearDuplicateCounts(TypedDict):
    """Near-duplicates of training images; ``num_released`` is None where it was not counted."""

    num_synthetic: int
    num_redrawn: int
    num_withheld: int
    num_used: int
    num_released: int | None


class Membership(TypedDict):
    """Membership-inference AUC of the adapters, with its 95 % interval."""

    mean: float | None
    low: float | None
    high: float | None
    goal: float
    reaches_goal: bool | None
    per_draw: list[Audit | None]


class Privacy(TypedDict):
    """Privacy of all replicates."""

    near_copies: NearDuplicateCounts
    membership_inference: Membership
    nearest: NearestFigures | None


class Goal(TypedDict):
    """A goal and the finding; ``reached`` is None if not measured."""

    goal: str
    found: str
    reached: bool | None
    why: str


class SynthesisFacts(TypedDict, total=False):
    """Facts of the adapter and the synthetic images of a replicate."""

    adapter: str
    adapter_files: dict[str, str]
    base: str
    base_revision: str
    image_set: str
    num_synthetic: int
    num_redrawn: int
    num_withheld: int
    membership_inference: Audit


class ReplicateFacts(SynthesisFacts):
    """Names, digests and seeds that repeat a replicate."""

    dataset: str
    images_of: str
    seed: int
    split_digest: str
    center_crop: float
    notices: list[str]
    left_out: list[str]
    num_train: dict[str, int]
    num_test: dict[str, int]
    train_digests: list[str]


class Measures(TypedDict):
    """Measures of the synthetic images of one replicate.

    Attributes:
        feature_space: Name and revision of the feature space.
        quality: As ``quality_by_class`` gives it.
        gallery: Synthetic images beside the nearest real ones.
        nearest: Distances to the training images.
        nearest_of_each: For every image used, in the order of ``nearest.csv``: class id,
            number, digest of the nearest training image by features, that distance, digest of the
            nearest by hash, bits, whether flagged.
    """

    feature_space: FeatureSpaceName
    quality: ReferencedQuality
    gallery: list[ShownTriplet]
    nearest: ComparisonFigures
    nearest_of_each: list[list[str | float]]


class Findings(TypedDict):
    """Findings of a study, before the goals are judged."""

    notice: str
    title: str
    headline_arm: str
    paired_difference: dict[str, Differences]
    paired_difference_transfer: dict[str, Differences]
    arms: dict[str, dict[str, ArmFigures]]
    differences: dict[str, dict[str, Differences]]
    quality: Quality | None
    privacy: Privacy | None
    settings: dict[str, Any]
    recipes: dict[str, dict[str, Any]]
    revisions: dict[str, str]
    dataset: DatasetFacts
    draws: list[ReplicateFacts]


class StudyContent(Findings):
    """Everything that ``report.json`` says."""

    goals: list[Goal]
