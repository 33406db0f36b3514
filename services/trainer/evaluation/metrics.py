"""Test metrics with bootstrap confidence intervals.

Intervals are 95 % percentile bootstraps over the test images, resampled within each class: every
resample has the class counts of the test set. All arms share the same resamples, which makes the
difference of two arms a paired one. Where patients are known, patients are resampled instead, as
images of one are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from sklearn.metrics import confusion_matrix, roc_auc_score

from services.trainer.evaluation.predictions import Predictions

NUM_RESAMPLES = 2000
NUM_CALIBRATION_BINS = 10
_SEED = 20_240_229

MetricName = Literal["macro_f1", "balanced_accuracy", "top1", "macro_auc", "ece"]
METRICS: tuple[MetricName, ...] = ("macro_f1", "balanced_accuracy", "top1", "macro_auc", "ece")


class Breakdown(TypedDict):
    """JSON of intervals, recalls by class id, and confusion counts.

    Rows of the counts are true classes.
    """

    intervals: dict[MetricName, tuple[float, float]]
    per_class_recall: dict[str, float]
    per_class_recall_intervals: dict[str, tuple[float, float]]
    confusion: list[list[int]]


class EvaluationJson(Breakdown):
    """JSON form of ``Evaluation``."""

    metrics: dict[MetricName, float]


class Figures(Breakdown):
    """JSON of figures for reports, with each metric under its own key."""

    macro_f1: float
    balanced_accuracy: float
    top1: float
    macro_auc: float
    ece: float


class PairedDifference(TypedDict):
    """Difference of a metric between two arms, with its 95 % interval."""

    difference: float
    interval: list[float]


@dataclass(frozen=True)
class Evaluation:
    """Figures on the test set.

    Attributes:
        metrics: ``macro_f1``, ``balanced_accuracy``, ``top1``, ``macro_auc`` (one against the
            rest) and ``ece`` (expected calibration error), each 0 to 1.
        intervals: 95 % interval of each.
        per_class_recall: By class id.
        per_class_recall_intervals: 95 % interval, by class id.
        confusion: Counts (classes, classes); rows are true classes.
    """

    metrics: dict[MetricName, float]
    intervals: dict[MetricName, tuple[float, float]]
    per_class_recall: dict[str, float]
    per_class_recall_intervals: dict[str, tuple[float, float]]
    confusion: np.ndarray

    def to_dict(self) -> EvaluationJson:
        """JSON form."""
        return {"metrics": self.metrics, **self._breakdown()}

    def figures(self) -> Figures:
        """JSON form for reports."""
        return {
            "macro_f1": self.metrics["macro_f1"],
            "balanced_accuracy": self.metrics["balanced_accuracy"],
            "top1": self.metrics["top1"],
            "macro_auc": self.metrics["macro_auc"],
            "ece": self.metrics["ece"],
            **self._breakdown(),
        }

    def _breakdown(self) -> Breakdown:
        return {
            "intervals": self.intervals,
            "per_class_recall": self.per_class_recall,
            "per_class_recall_intervals": self.per_class_recall_intervals,
            "confusion": self.confusion.tolist(),
        }


def evaluate(predictions: Predictions) -> Evaluation:
    """Point figures and intervals of one classifier."""
    return evaluate_runs([predictions])


def evaluate_runs(
    runs: list[Predictions],
    resample_runs: bool = False,
    patients: Mapping[str, str] | None = None,
) -> Evaluation:
    """Point figures and intervals of an arm.

    Metrics are means over its runs, counts are sums.

    Args:
        runs: With ``resample_runs`` each may have test images of its own.
        resample_runs: Resamples runs too, so that intervals are also over what changes from
            run to run (split, training, synthetic images).
        patients: Patient id by image digest, where known.

    Raises:
        ValueError: If the runs have other classes, or, without ``resample_runs``, were tested on
            different images.
    """
    if resample_runs:
        _check_same_classes(runs)
    else:
        _check_same_images(runs)
    class_ids = runs[0].class_ids
    shares = _run_shares(len(runs)) if resample_runs else None
    exact = _mean_metrics(runs, _unit_weights(runs))
    resampled = _mean_metrics(runs, weights_of_runs(runs, patients), shares)
    low, high = np.percentile(resampled["recall"], [2.5, 97.5], axis=0)
    metrics = {name: float(exact[name][0]) for name in METRICS}
    order = range(len(class_ids))
    return Evaluation(
        metrics=metrics,
        intervals={name: interval(resampled[name]) for name in METRICS},
        per_class_recall={c: float(exact["recall"][0, i]) for i, c in enumerate(class_ids)},
        per_class_recall_intervals={
            c: (float(low[i]), float(high[i])) for i, c in enumerate(class_ids)
        },
        confusion=sum(
            (confusion_matrix(run.labels, run.predicted, labels=order) for run in runs),
            start=np.zeros((len(class_ids),) * 2, int),
        ),
    )


def paired_difference(
    candidate: list[Predictions],
    baseline: list[Predictions],
    resample_runs: bool = False,
    patients: Mapping[str, str] | None = None,
) -> dict[str, PairedDifference]:
    """Candidate minus baseline on the same test images, with 95 % intervals.

    Each list holds the runs of an arm over seeds; a resample averages the metric over them.

    Args:
        candidate: Runs of one arm.
        baseline: Runs of the other.
        resample_runs: The runs are pairs, in the same order; each pair may have test images of
            its own. Pairs are resampled too, so that the interval is also over what changes from
            run to run (split, training, synthetic images).
        patients: Patient id by image digest, where known.

    Returns:
        ``difference`` and ``interval`` of each of ``METRICS``, and of ``recall_<class id>`` of
        each class.

    Raises:
        ValueError: If the runs were not tested on the same images (without ``resample_runs`` all
            of them, with it those of a pair), or do not pair.
    """
    if resample_runs:
        if len(candidate) != len(baseline):
            raise ValueError(f"{len(candidate)} runs and {len(baseline)} make no pairs")
        _check_same_classes([*candidate, *baseline])
        for pair in zip(candidate, baseline, strict=True):
            _check_same_images(list(pair))
    else:
        _check_same_images([*candidate, *baseline])
    exact_a, exact_b = (_mean_metrics(runs, _unit_weights(runs)) for runs in (candidate, baseline))
    shares = _run_shares(len(baseline)) if resample_runs else None
    resampled_a = _mean_metrics(candidate, weights_of_runs(candidate, patients), shares)
    resampled_b = _mean_metrics(baseline, weights_of_runs(baseline, patients), shares)
    exact = {name: exact_a[name] - exact_b[name] for name in exact_a}
    resampled = {name: resampled_a[name] - resampled_b[name] for name in resampled_a}
    for number, class_id in enumerate(baseline[0].class_ids):
        for values in (exact, resampled):
            values[f"recall_{class_id}"] = values["recall"][:, number]
    return {
        name: {
            "difference": float(exact[name][0]),
            "interval": list(interval(resampled[name])),
        }
        for name in exact
        if name != "recall"
    }


def _run_shares(num_runs: int) -> np.ndarray:
    """Weight of each run in each resample (num_runs, NUM_RESAMPLES)."""
    rng = np.random.default_rng(_SEED + 1)
    resampled = rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=NUM_RESAMPLES)
    return resampled.T / num_runs


def _check_same_classes(runs: list[Predictions]) -> None:
    if any(run.class_ids != runs[0].class_ids for run in runs):
        raise ValueError("the classifiers have different classes")


def _check_same_images(runs: list[Predictions]) -> None:
    if any(run.digests != runs[0].digests for run in runs):
        raise ValueError("the classifiers were tested on different images")


def _unit_weights(runs: list[Predictions]) -> list[np.ndarray]:
    """Every image of every run once."""
    return [np.ones((1, len(run.labels))) for run in runs]


def weights_of_runs(
    runs: list[Predictions], patients: Mapping[str, str] | None = None
) -> list[np.ndarray]:
    """Resamples of each run; an image weighs the same in every run."""
    label_of: dict[str, int] = {}
    for run in runs:
        label_of |= dict(zip(run.digests, run.labels.tolist(), strict=True))
    labels = np.array(list(label_of.values()))
    column = {digest: i for i, digest in enumerate(label_of)}
    known = {d: patients[d] for d in label_of if patients.get(d)} if patients else {}
    groups = [known.get(digest, digest) for digest in label_of] if known else None
    resampled = resample_weights(labels, groups=groups)
    each = []
    for run in runs:
        weights = resampled[:, [column[digest] for digest in run.digests]]
        for label in np.unique(run.labels):
            members = np.flatnonzero(run.labels == label)
            # A resample without any image of a class says nothing of it: it keeps them all.
            missing = np.flatnonzero(weights[:, members].sum(axis=1) == 0)
            weights[np.ix_(missing, members)] = 1
        each.append(weights)
    return each


def _mean_metrics(
    runs: list[Predictions], weights: list[np.ndarray], shares: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Metrics per resample, means over runs weighted by ``shares`` (N, R)."""
    each = [resampled_metrics(run, w) for run, w in zip(runs, weights, strict=True)]
    if shares is None:
        return {name: np.mean([metrics[name] for metrics in each], axis=0) for name in each[0]}
    means = {}
    for name in each[0]:
        values = np.stack([metrics[name] for metrics in each])
        means[name] = (values * shares.reshape(*shares.shape, *[1] * (values.ndim - 2))).sum(axis=0)
    return means


def resample_weights(
    labels: np.ndarray, num_resamples: int = NUM_RESAMPLES, groups: list[str] | None = None
) -> np.ndarray:
    """Counts of each image in each resample within classes, (num_resamples, N).

    Args:
        labels: Class of each image (N,).
        num_resamples: How many resamples.
        groups: Group of each image; whole groups are resampled then, whatever their classes.
    """
    rng = np.random.default_rng(_SEED)
    if groups is not None:
        _, member_of = np.unique(groups, return_inverse=True)
        num_groups = int(member_of.max()) + 1
        share = np.full(num_groups, 1 / num_groups)
        return rng.multinomial(num_groups, share, size=num_resamples)[:, member_of].astype(float)
    weights = np.zeros((num_resamples, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        share = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), share, size=num_resamples)
    return weights


def resampled_metrics(predictions: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics per resample: each of ``METRICS`` (R,), and ``recall`` (R, classes).

    Macro figures run over the classes that the test set has.
    """
    num_classes = len(predictions.class_ids)
    labels, predicted = predictions.labels, predictions.predicted
    is_label = np.eye(num_classes)[labels]
    is_predicted = np.eye(num_classes)[predicted]
    support = weights @ is_label
    claimed = weights @ is_predicted
    hits = weights @ (is_label * is_predicted)
    tested = is_label.any(axis=0)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
    f1 = 2 * hits / np.maximum(support + claimed, 1e-12)
    return {
        "top1": hits.sum(axis=1) / weights.sum(axis=1),
        "balanced_accuracy": recall[:, tested].mean(axis=1),
        "macro_f1": f1[:, tested].mean(axis=1),
        "macro_auc": np.mean(
            [_auc(predictions.probabilities[:, c], labels == c, weights)
             for c in np.flatnonzero(tested)], axis=0
        ),
        "ece": calibration_error(predictions, weights),
        "recall": recall,
    }  # fmt: skip


def _auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ROC AUC per resample (R,); 0.5 for a lone class."""
    if positive.all() or not positive.any():
        return np.full(len(weights), 0.5)
    if len(weights) == 1 and (weights == 1).all():
        return np.array([roc_auc_score(positive, scores)])
    _, rank = np.unique(scores, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    up = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    won = (up * (below + down / 2)).sum(axis=1)
    return won / (up.sum(axis=1) * down.sum(axis=1))


def calibration_error(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over ten bins (R,) (Guo et al. 2017)."""
    confidence = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.labels
    bins = np.minimum((confidence * NUM_CALIBRATION_BINS).astype(int), NUM_CALIBRATION_BINS - 1)
    gaps = np.eye(NUM_CALIBRATION_BINS)[bins] * (right - confidence)[:, None]
    return np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Middle 95 % of ``samples``."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
