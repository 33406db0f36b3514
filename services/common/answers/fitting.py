"""Fits an answer model to predictions on held-out cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.common.answers.answer_model import AnswerModel
from services.common.answers.calibration import fit_calibration, logit_spread
from services.common.answers.conformal import fit_conformal
from services.common.answers.image_checks import MIN_IMAGES, fit_image_checks
from services.common.answers.outliers import fit_outliers, typical_distance


@dataclass(frozen=True)
class HeldOut:
    """Answers of networks to cells that they had not learned from.

    ``matched`` brings those of a network to the scale of the final one. More steps on more cells
    make that one surer of itself.

    Attributes:
        logits: (N, C).
        labels: True classes (N,); every class occurs.
        distances: ``outliers.distances`` (N,) to the cells that the same network learned from.
    """

    logits: np.ndarray
    labels: np.ndarray
    distances: np.ndarray

    def matched(
        self,
        own_features: np.ndarray,
        own_logits: np.ndarray,
        final_features: np.ndarray,
        final_logits: np.ndarray,
    ) -> HeldOut:
        """The answers as the final network would give them.

        Args:
            own_features, own_logits: Of this network, to cells that it learned from.
            final_features, final_logits: Of the final network, to the same cells.
        """
        logit_ratio = logit_spread(final_logits) / logit_spread(own_logits)
        ratio = typical_distance(final_features) / typical_distance(own_features)
        return HeldOut(self.logits * logit_ratio, self.labels, self.distances * ratio)


def fit_answer_model(
    class_ids: tuple[str, ...],
    training_priors: np.ndarray,
    images_NHWC: np.ndarray,
    features_ND: np.ndarray,
    held_out: HeldOut | None,
) -> AnswerModel:
    """Everything that the data allow.

    Args:
        class_ids: In the order of the logits.
        training_priors: Share of each class that the probabilities are to assume (C,).
        images_NHWC: Training cells, uint8, as the network sees them.
        features_ND: The final network's features of the training cells.
        held_out: Answers to cells held out; None: the model checks pictures alone.
    """
    checks = fit_image_checks(images_NHWC) if len(images_NHWC) >= MIN_IMAGES else None
    if held_out is None:
        return AnswerModel(class_ids, training_priors, image_checks=checks)
    calibration = fit_calibration(held_out.logits, held_out.labels, training_priors)
    probabilities = calibration.probabilities(held_out.logits)
    return AnswerModel(
        class_ids,
        training_priors,
        calibration,
        fit_conformal(probabilities, held_out.labels),
        fit_outliers(features_ND, held_out.distances),
        checks,
    )
