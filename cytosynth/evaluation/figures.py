"""Figures of answers to labelled images, with bootstrap intervals.

Intervals are 95 % percentiles over 2,000 resamples of the images within each class, or of patients
where they are known. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_RESAMPLES = 2000
NUM_BINS = 10
KEPT_SHARE = 0.8
"""Share of the images, least in need of review, that ``macro_f1_kept`` looks at."""
_SEED = 20_240_229
_RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class LabelledAnswers:
    """Answers to N labelled images over C classes.

    Attributes:
        class_ids: Classes of the classifier.
        labels: True classes (N,), positions in ``class_ids``.
        probabilities: (N, C).
        is_in_set: Whether each class is in the prediction set, bool (N, C); None without sets.
        scores: Out of distribution scores (N,); None without.
        needs_review: Whether there is a reason for review, bool (N,).
        patients: Patient of each image, empty where unknown.
    """

    class_ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    is_in_set: np.ndarray | None
    scores: np.ndarray | None
    needs_review: np.ndarray
    patients: Sequence[str] = ()

    def least_in_need(self) -> np.ndarray:
        """Positions of the ``KEPT_SHARE`` least in need of review.

        First what is in distribution, then what is answered with the greatest certainty.
        """
        need = 1 - self.probabilities.max(axis=1)
        if self.scores is not None:
            need = need + (self.scores > 1)
        return np.argsort(need, kind="stable")[: max(1, round(KEPT_SHARE * len(need)))]


def figures_of(answers: LabelledAnswers) -> dict[str, Any]:
    """All figures that the answers allow, as ``value`` and ``interval``."""
    labels, probabilities = answers.labels, answers.probabilities
    everything, kept = np.arange(len(labels)), answers.least_in_need()
    right = (probabilities.argmax(axis=1) == labels).astype(float)

    def of_part(part: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda weights: macro_f1(labels[part], probabilities[part], weights[:, part])

    found: dict[str, Any] = {
        "num_images": len(labels),
        "num_per_class": _per_class(answers, np.ones(len(labels)), np.sum, int),
        "accuracy": _measured(answers, lambda w: w @ right / w.sum(axis=1)),
        "macro_f1": _measured(answers, of_part(everything)),
        "ece": _measured(answers, lambda w: calibration_error(labels, probabilities, w)),
        "recall_per_class": _per_class(answers, right, np.mean),
        "share_needing_review": _measured(answers, lambda w: w @ answers.needs_review / w.sum(1)),
        "kept_share": KEPT_SHARE,
        "macro_f1_kept": _measured(answers, of_part(kept)),
    }
    if answers.is_in_set is not None:
        held = answers.is_in_set[everything, labels].astype(float)
        sizes = answers.is_in_set.sum(axis=1)
        found["coverage_per_class"] = _per_class(answers, held, np.mean)
        found["mean_set_size"] = _measured(answers, lambda w: w @ sizes / w.sum(axis=1))
    return found


def macro_f1(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro-F1 per resample (R,), over the classes that the images have."""
    one_of = np.eye(probabilities.shape[1])
    is_label, is_predicted = one_of[labels], one_of[probabilities.argmax(axis=1)]
    hits = weights @ (is_label * is_predicted)
    f1 = 2 * hits / np.maximum(weights @ is_label + weights @ is_predicted, 1e-12)
    scores: np.ndarray = f1[:, is_label.any(axis=0)].mean(axis=1)
    return scores


def calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Expected calibration error per resample (R,), ten bins (Guo et al. 2017)."""
    certainty = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((certainty * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.eye(NUM_BINS)[bins] * (right - certainty)[:, None]
    errors: np.ndarray = np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)
    return errors


def auc(known: np.ndarray, strange: np.ndarray) -> float:
    """AUC of strange pictures against known ones; ties count half."""
    ordered = np.sort(known)
    below = np.searchsorted(ordered, strange, "left")
    up_to = np.searchsorted(ordered, strange, "right")
    return float((below + up_to).mean() / (2 * len(known)))


def _per_class(
    answers: LabelledAnswers, values: np.ndarray, reduce: Any, kind: Any = float
) -> dict[str, Any]:
    return {
        class_id: kind(reduce(values[answers.labels == n]))
        for n, class_id in enumerate(answers.class_ids)
        if (answers.labels == n).any()
    }


def _measured(
    answers: LabelledAnswers, measure: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    exact = float(measure(np.ones((1, len(answers.labels))))[0])
    rng = np.random.default_rng(_SEED)
    resampled = [
        measure(_weights(answers, rng)) for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE)
    ]
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5])
    return {"value": exact, "interval": [float(low), float(high)]}


def _weights(answers: LabelledAnswers, rng: np.random.Generator) -> np.ndarray:
    """Counts of each image in each of some resamples, (R, N)."""
    labels = answers.labels
    weights = np.zeros((_RESAMPLES_AT_ONCE, len(labels)))
    if any(answers.patients):
        names = [patient or f"image {n}" for n, patient in enumerate(answers.patients)]
        _, group = np.unique(names, return_inverse=True)
        num_groups = int(group.max()) + 1
        share = np.full(num_groups, 1 / num_groups)
        weights = rng.multinomial(num_groups, share, _RESAMPLES_AT_ONCE)[:, group].astype(float)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if not any(answers.patients):
            share = np.full(len(members), 1 / len(members))
            weights[:, members] = rng.multinomial(len(members), share, _RESAMPLES_AT_ONCE)
        # A resample without any image of a class says nothing of it: it keeps them all.
        missing = np.flatnonzero(weights[:, members].sum(axis=1) == 0)
        weights[np.ix_(missing, members)] = 1
    return weights
