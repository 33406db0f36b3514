"""Quality of answers on the test set: calibration, sets, referral."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from services.common.answers.answer_model import Answers
from services.trainer.evaluation.metrics import (
    calibration_error,
    interval,
    weights_of_runs,
)
from services.trainer.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from services.trainer.evaluation.predictions import PredictionsJson

KEPT_SHARE = 0.8
"""Share of the images, least in need of review, that ``macro_f1_kept`` looks at."""


@dataclass(frozen=True)
class AnsweredTest:
    """Answers to the test images.

    Attributes:
        predictions: With calibrated probabilities.
        coverage: Coverage that the prediction sets promise.
        is_in_set: Whether each class is in the set of each image, bool (N, C).
        needs_review: Whether there is a reason for review, bool (N,).
        scores: Out of distribution scores (N,).
    """

    predictions: Predictions
    coverage: float
    is_in_set: np.ndarray
    needs_review: np.ndarray
    scores: np.ndarray

    @staticmethod
    def of(answers: Answers, plain: Predictions) -> AnsweredTest:
        """Answers with sets and scores to the images of ``plain``."""
        shares = np.array(
            [[dict(each.probabilities)[c] for c in plain.class_ids] for each in answers.each]
        )
        is_in_set = [[c in each.prediction_set for c in plain.class_ids] for each in answers.each]
        return AnsweredTest(
            Predictions(plain.class_ids, plain.digests, plain.labels, shares),
            answers.coverage,
            np.array(is_in_set, bool),
            np.array([each.needs_review for each in answers.each], bool),
            np.array([each.out_of_distribution_score for each in answers.each], float),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``from_dict`` reads it back."""
        return {
            **self.predictions.to_dict(),
            "coverage": self.coverage,
            "prediction_sets": [np.flatnonzero(row).tolist() for row in self.is_in_set],
            "needs_review": self.needs_review.tolist(),
            "out_of_distribution_scores": np.round(self.scores, 6).tolist(),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> AnsweredTest:
        """The answers that ``to_dict`` wrote."""
        predictions = Predictions.from_dict(cast("PredictionsJson", data))
        is_in_set = np.zeros(predictions.probabilities.shape, bool)
        for row, found in enumerate(data["prediction_sets"]):
            is_in_set[row, found] = True
        return AnsweredTest(
            predictions,
            float(data["coverage"]),
            is_in_set,
            np.array(data["needs_review"], bool),
            np.array(data["out_of_distribution_scores"], float),
        )

    def least_in_need(self, share: float = KEPT_SHARE) -> np.ndarray:
        """Positions of the images least in need of review, ascending.

        First what is in distribution, then what is answered with the greatest certainty.
        """
        need = 1 - self.predictions.probabilities.max(axis=1) + (self.scores > 1)
        kept = np.argsort(need, kind="stable")[: max(1, round(share * len(need)))]
        return np.sort(kept)


def answer_figures(
    plain: Sequence[Predictions],
    answered: Sequence[AnsweredTest],
    patients: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures with 95 % intervals; means over runs.

    ``ece`` is the expected calibration error over ten bins. ``balanced`` gives each class the same
    weight, as the probabilities assume; the others count the test images as they are.

    Args:
        plain: Softmax of each run, on the same images.
        answered: Answers of each run to these images.
        patients: Patient id by image digest, where known.
    """
    weights = weights_of_runs(list(plain), patients)
    first = plain[0]
    ones = np.ones((1, len(first.labels)))

    def measured(measure: Any) -> dict[str, Any]:
        exact = np.mean([measure(n, ones) for n in range(len(plain))])
        resampled = np.mean([measure(n, w) for n, w in enumerate(weights)], axis=0)
        return {"value": float(exact), "interval": list(interval(resampled))}

    def kept_f1(run: int, w: np.ndarray) -> np.ndarray:
        kept = answered[run].least_in_need()
        return macro_f1(_part(answered[run].predictions, kept), w[:, kept])

    in_set = [run.is_in_set[np.arange(len(first.labels)), first.labels] for run in answered]
    held = np.mean(in_set, axis=0)
    sizes = [run.is_in_set.sum(axis=1) for run in answered]
    return {
        "ece_before": measured(lambda n, w: calibration_error(plain[n], w)),
        "ece_after": measured(lambda n, w: calibration_error(answered[n].predictions, w)),
        "balanced_ece_before": measured(
            lambda n, w: calibration_error(plain[n], _balanced(plain[n], w))
        ),
        "balanced_ece_after": measured(
            lambda n, w: calibration_error(answered[n].predictions, _balanced(plain[n], w))
        ),
        "coverage": answered[0].coverage,
        "coverage_per_class": {
            class_id: float(held[first.labels == c].mean())
            for c, class_id in enumerate(first.class_ids)
            if (first.labels == c).any()
        },
        "mean_set_size": measured(lambda n, w: w @ sizes[n] / w.sum(axis=1)),
        "share_needing_review": measured(
            lambda n, w: w @ answered[n].needs_review / w.sum(axis=1)
        ),
        "macro_f1": measured(lambda n, w: macro_f1(answered[n].predictions, w)),
        "macro_f1_kept": measured(kept_f1),
        "kept_share": KEPT_SHARE,
    }  # fmt: skip


def headline_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures of ``answer_figures`` for a manifest's ``metrics``: numbers alone."""
    return {
        "ece_calibrated": figures["ece_after"]["value"],
        "lowest_coverage": min(figures["coverage_per_class"].values()),
        "mean_set_size": figures["mean_set_size"]["value"],
        "share_needing_review": figures["share_needing_review"]["value"],
        "macro_f1_kept": figures["macro_f1_kept"]["value"],
    }


def macro_f1(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Macro-F1 per resample (R,), over the classes that the images have."""
    order = np.eye(len(predictions.class_ids))
    is_label, is_predicted = order[predictions.labels], order[predictions.predicted]
    hits = weights @ (is_label * is_predicted)
    f1 = 2 * hits / np.maximum(weights @ is_label + weights @ is_predicted, 1e-12)
    scores: np.ndarray = f1[:, is_label.any(axis=0)].mean(axis=1)
    return scores


def _balanced(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Weights (R, N) under which all classes of a resample are equal."""
    is_label = np.eye(len(predictions.class_ids))[predictions.labels]
    support = (weights @ is_label) @ is_label.T
    return weights / np.maximum(support, 1e-12)


def _part(predictions: Predictions, kept: np.ndarray) -> Predictions:
    return Predictions(
        predictions.class_ids,
        tuple(predictions.digests[n] for n in kept),
        predictions.labels[kept],
        predictions.probabilities[kept],
    )
