"""Turns the logits and features of a network into answers.

Shapes: B images of a call, C classes, D features, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from services.common.answers.calibration import Calibration
from services.common.answers.conformal import Conformal, checked_coverage
from services.common.answers.image_checks import ImageChecks
from services.common.answers.options import AnswerOptions
from services.common.answers.outliers import Outliers
from services.common.answers.priors import (
    MIN_IMAGES_FOR_ESTIMATE,
    PriorSource,
    checked_priors,
    corrected,
    estimated_priors,
)
from services.common.answers.review import ReviewReason, large_set, near_boundary


@dataclass(frozen=True)
class Answer:
    """The answer to one image.

    Attributes:
        class_id: The most probable class.
        probabilities: Class ids and probabilities, most probable first; at most ``top_k``.
        prediction_set: Classes of the set, most probable first; empty without conformal sets.
        out_of_distribution_score: 1 is the 99th percentile of held-out cells; None if unknown.
        review_reasons: Why somebody ought to look.
    """

    class_id: str
    probabilities: tuple[tuple[str, float], ...]
    prediction_set: tuple[str, ...] = ()
    out_of_distribution_score: float | None = None
    review_reasons: tuple[ReviewReason, ...] = ()

    @property
    def needs_review(self) -> bool:
        """Whether there is any reason for review."""
        return bool(self.review_reasons)


@dataclass(frozen=True)
class Answers:
    """The answers to a call and what they have in common.

    Attributes:
        each: One answer per image, in their order.
        calibrated: Whether probabilities are calibrated.
        conformal: Whether there are prediction sets.
        coverage: Their coverage; 0 without sets.
        prior_source: Where the class shares come from.
        class_priors: The shares assumed, by class id.
    """

    each: tuple[Answer, ...]
    calibrated: bool
    conformal: bool
    coverage: float
    prior_source: PriorSource
    class_priors: dict[str, float]


@dataclass(frozen=True)
class AnswerModel:
    """Everything fitted beside a classifier; None where cells were too few.

    Attributes:
        class_ids: In the order of the logits.
        training_priors: Share of each class that the probabilities assume (C,).
        calibration: Temperature and biases.
        conformal: Held-out scores for prediction sets.
        outliers: Training features and the scale of distances to them.
        image_checks: Bounds of focus and exposure, and the typical look.
    """

    class_ids: tuple[str, ...]
    training_priors: np.ndarray
    calibration: Calibration | None = None
    conformal: Conformal | None = None
    outliers: Outliers | None = None
    image_checks: ImageChecks | None = None

    @staticmethod
    def plain(class_ids: Sequence[str]) -> AnswerModel:
        """Model of a classifier without any: softmax, equal shares, nothing else."""
        return AnswerModel(tuple(class_ids), np.full(len(class_ids), 1 / len(class_ids)))

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        """Probabilities (B, C) under the class shares of training."""
        if self.calibration is None:
            return softmax(np.asarray(logits_BC, float), axis=1)
        return self.calibration.probabilities(logits_BC)

    def answer(
        self,
        logits_BC: np.ndarray,
        features_BD: np.ndarray | None,
        images_BHWC: np.ndarray | None,
        options: AnswerOptions | None = None,
    ) -> Answers:
        """Answers all readable images of one call.

        Ask once per call, not per batch of the network: ``estimate_priors`` looks at all images.

        Args:
            logits_BC: Logits of the network; B may be 0.
            features_BD: ``ImageClassifier.features`` of the same images; None: no distribution
                scores.
            images_BHWC: The pictures as the network saw them, uint8; None: no checks of pictures.
            options: What is asked; None: the defaults.

        Raises:
            InvalidArgument: As ``AnswerOptions.check``.
        """
        options = options or AnswerOptions()
        options.check(self.class_ids)
        trained_BC = self.probabilities(np.reshape(logits_BC, (-1, len(self.class_ids))))
        looks_B = self._looks(images_BHWC)
        scores_B = self._scores(features_BD, looks_B)
        source, priors_C = self._priors(options, trained_BC, scores_B)
        answered_BC = trained_BC
        if source != PriorSource.TRAINING:
            answered_BC = corrected(trained_BC, self.training_priors, priors_C)
        coverage = checked_coverage(options.coverage) if self.conformal else 0.0
        # Sets keep their promise class by class under any shares, so they ignore them.
        sets_BC = self.conformal.sets(trained_BC, coverage) if self.conformal else None
        reasons = self._reasons(answered_BC, sets_BC, scores_B, looks_B, images_BHWC)
        order_BC = np.argsort(-answered_BC, axis=1, kind="stable")
        top_k = options.top_k or len(self.class_ids)
        each = []
        for row, order in enumerate(order_BC):
            ranked = [(self.class_ids[c], float(answered_BC[row, c])) for c in order]
            in_set = () if sets_BC is None else tuple(
                self.class_ids[c] for c in order if sets_BC[row, c]
            )  # fmt: skip
            score = None if scores_B is None else float(scores_B[row])
            why = tuple(reason for reason, flags in reasons.items() if flags[row])
            each.append(Answer(ranked[0][0], tuple(ranked[:top_k]), in_set, score, why))
        return Answers(
            tuple(each),
            self.calibration is not None,
            self.conformal is not None,
            coverage,
            source,
            dict(zip(self.class_ids, priors_C.tolist(), strict=True)),
        )

    def _looks(self, images_BHWC: np.ndarray | None) -> np.ndarray | None:
        """How unlike the training cells the pictures look (B,); None if unknown."""
        if self.image_checks is None or images_BHWC is None or len(images_BHWC) == 0:
            return None
        return self.image_checks.strangeness(images_BHWC)

    def _scores(
        self, features_BD: np.ndarray | None, looks_B: np.ndarray | None
    ) -> np.ndarray | None:
        """Distribution scores (B,): the larger of features' and pictures'; None if unknown."""
        if self.outliers is None or features_BD is None:
            return None
        if len(features_BD) == 0:
            return np.zeros(0)
        scores = self.outliers.scores(features_BD)
        return scores if looks_B is None else np.maximum(scores, looks_B)

    def _priors(
        self, options: AnswerOptions, trained_BC: np.ndarray, scores_B: np.ndarray | None
    ) -> tuple[PriorSource, np.ndarray]:
        if options.class_priors:
            return PriorSource.REQUEST, checked_priors(options.class_priors, self.class_ids)
        if options.estimate_priors:
            # What is no cell of a known class says nothing about their shares.
            known_BC = trained_BC if scores_B is None else trained_BC[scores_B <= 1]
            if len(known_BC) >= MIN_IMAGES_FOR_ESTIMATE:
                return PriorSource.ESTIMATED, estimated_priors(known_BC, self.training_priors)
        return PriorSource.TRAINING, self.training_priors

    def _reasons(
        self,
        answered_BC: np.ndarray,
        sets_BC: np.ndarray | None,
        scores_B: np.ndarray | None,
        looks_B: np.ndarray | None,
        images_BHWC: np.ndarray | None,
    ) -> dict[ReviewReason, np.ndarray]:
        """Which images each reason concerns, bool (B,)."""
        reasons: dict[ReviewReason, np.ndarray] = {}
        if self.image_checks is not None and looks_B is not None and images_BHWC is not None:
            reasons[ReviewReason.NOT_A_CELL] = looks_B > 1
            reasons[ReviewReason.BLURRED] = self.image_checks.blurred(images_BHWC)
            reasons[ReviewReason.EXPOSURE] = self.image_checks.badly_exposed(images_BHWC)
        if scores_B is not None:
            is_cell = ~reasons.get(ReviewReason.NOT_A_CELL, np.zeros(len(scores_B), bool))
            reasons[ReviewReason.UNKNOWN_CLASS] = (scores_B > 1) & is_cell
        if sets_BC is not None:
            reasons[ReviewReason.LARGE_SET] = large_set(sets_BC)
        if self.calibration is not None:
            reasons[ReviewReason.NEAR_BOUNDARY] = near_boundary(answered_BC)
        return reasons
