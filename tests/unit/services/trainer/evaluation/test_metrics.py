"""Figures as in the textbooks, and intervals that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from services.trainer.evaluation.metrics import (
    _auc,
    evaluate,
    evaluate_runs,
    paired_difference,
    resample_weights,
)
from services.trainer.evaluation.predictions import Predictions

CLASSES = ("eosinophil", "lymphocyte", "monocyte")


def some_predictions(seed: int = 0, skill: float = 1.5, count: int = 90) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.sort(np.arange(count) % 3)
    logits = rng.normal(size=(count, 3))
    logits[np.arange(count), labels] += skill
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    return Predictions(CLASSES, tuple(f"{i:064x}" for i in range(count)), labels, shares)


def test_metrics_agree_with_scikit_learn() -> None:
    answers = some_predictions()
    figures = evaluate(answers)
    labels, predicted = answers.labels, answers.predicted
    assert figures.metrics["macro_f1"] == pytest.approx(
        f1_score(labels, predicted, average="macro")
    )
    assert figures.metrics["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    assert figures.metrics["top1"] == pytest.approx(np.mean(labels == predicted))
    assert figures.metrics["macro_auc"] == pytest.approx(
        roc_auc_score(labels, answers.probabilities, multi_class="ovr", average="macro")
    )
    assert figures.confusion.sum() == 90
    assert figures.per_class_recall["monocyte"] == pytest.approx(
        figures.confusion[2, 2] / figures.confusion[2].sum()
    )


def test_intervals_hold_the_figure_and_shrink_with_more_images() -> None:
    few, many = evaluate(some_predictions()), evaluate(some_predictions(count=900))
    for name, (low, high) in few.intervals.items():
        assert low < few.metrics[name] < high
        assert many.intervals[name][1] - many.intervals[name][0] < high - low


def test_weighted_auc_is_that_of_the_resample_even_with_ties() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, 30) / 4
    positive = np.arange(30) < 12
    weights = resample_weights(positive.astype(int), 5)
    for row, value in zip(weights, _auc(scores, positive, weights), strict=True):
        drawn = np.repeat(np.arange(30), row.astype(int))
        assert value == pytest.approx(roc_auc_score(positive[drawn], scores[drawn]))


def test_resamples_keep_the_class_counts() -> None:
    labels = np.array([0] * 5 + [1] * 20)
    weights = resample_weights(labels, 50)
    assert (weights[:, :5].sum(axis=1) == 5).all()
    assert (weights[:, 5:].sum(axis=1) == 20).all()


def test_interval_over_runs_too_is_wider_by_what_the_runs_differ() -> None:
    base = [some_predictions(0, 1.0) for _ in range(4)]
    unsteady = [some_predictions(0, 1.0), some_predictions(0, 4.0)] * 2
    over_images = paired_difference(unsteady, base)["macro_f1"]
    over_both = paired_difference(unsteady, base, resample_runs=True)["macro_f1"]
    assert over_images["difference"] == over_both["difference"]
    (low, high), (lower, higher) = over_images["interval"], over_both["interval"]
    assert lower < low - 0.05 and higher > high + 0.05
    alike = paired_difference([unsteady[1]] * 4, base, resample_runs=True)["macro_f1"]
    assert alike == paired_difference([unsteady[1]] * 4, base)["macro_f1"]
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference(unsteady[:2], base, resample_runs=True)


def test_paired_difference_of_an_arm_to_itself_is_nothing() -> None:
    runs = [some_predictions(0), some_predictions(1)]
    same = paired_difference(runs, runs)
    assert same["macro_f1"] == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_a_clearly_better_arm_has_an_interval_above_zero() -> None:
    better = paired_difference([some_predictions(1, 4.0)], [some_predictions(0, 0.5)])
    assert better["macro_f1"]["interval"][0] > 0


def test_arms_tested_on_other_images_are_not_compared() -> None:
    other = some_predictions()
    other = Predictions(CLASSES, other.digests[::-1], other.labels, other.probabilities)
    with pytest.raises(ValueError, match="different images"):
        paired_difference([other], [some_predictions()])


def test_runs_are_averaged_and_their_confusions_summed() -> None:
    runs = [some_predictions(0), some_predictions(1)]
    both = evaluate_runs(runs)
    each = [evaluate(run) for run in runs]
    assert both.metrics["macro_f1"] == pytest.approx(
        np.mean([one.metrics["macro_f1"] for one in each])
    )
    assert (both.confusion == each[0].confusion + each[1].confusion).all()


def test_calibration_error_of_honest_certainty_is_zero() -> None:
    sure = np.eye(3)[[0, 1, 2]]
    digests = ("a", "b", "c")
    honest = evaluate(Predictions(CLASSES, digests, np.arange(3), sure))
    assert honest.metrics["ece"] == 0
    wrong = evaluate(Predictions(CLASSES, digests, np.array([1, 2, 0]), sure))
    assert wrong.metrics["ece"] == pytest.approx(1.0)


def test_calibration_error_is_the_gap_of_each_bin_by_its_size() -> None:
    digests, labels = tuple("abcd"), np.array([0, 1, 0, 0])
    shares = np.array([[0.75, 0.25], [0.75, 0.25], [0.95, 0.05], [0.05, 0.95]])
    answers = Predictions(("a", "b"), digests, labels, shares)
    # Two answers of 75 % of which one is right, two of 95 % of which one is right.
    assert evaluate(answers).metrics["ece"] == pytest.approx(0.5 * 0.25 + 0.5 * 0.45)


def test_patients_are_drawn_whole_where_they_are_known() -> None:
    answers = some_predictions(count=90)
    # The images of a patient are alike, so 90 of them say less than 90 patients would.
    order = np.argsort(answers.predicted == answers.labels, kind="stable")
    patients = {answers.digests[i]: f"patient {place // 9}" for place, i in enumerate(order)}
    alone, together = evaluate(answers), evaluate_runs([answers], patients=patients)
    assert together.metrics == alone.metrics
    (low, high), (lower, higher) = alone.intervals["top1"], together.intervals["top1"]
    assert higher - lower > 2 * (high - low)
    each = {digest: digest for digest in answers.digests}
    assert evaluate_runs([answers], patients=each).intervals["top1"] == pytest.approx(
        alone.intervals["top1"], abs=0.03
    )
    assert evaluate_runs([answers], patients={}).intervals == alone.intervals


def test_an_image_that_several_draws_test_is_the_same_image_in_all_of_them() -> None:
    whole = some_predictions(count=90)
    kept = np.arange(90) % 10 > 0
    part = Predictions(
        CLASSES,
        tuple(d for d, keep in zip(whole.digests, kept, strict=True) if keep),
        whole.labels[kept],
        whole.probabilities[kept],
    )
    elsewhere = Predictions(CLASSES, tuple(f"other {d}" for d in part.digests), part.labels,
                            part.probabilities)  # fmt: skip
    shared, apart = (
        evaluate_runs([whole, other], resample_runs=True).intervals["top1"]
        for other in (part, elsewhere)
    )
    # Variances are 1 and 3/4: half of the resamples of two runs hold both, and average them.
    assert shared[1] - shared[0] > 1.08 * (apart[1] - apart[0])


def test_recall_is_compared_class_by_class() -> None:
    strong, weak = some_predictions(1, 4.0), some_predictions(0, 0.5)
    found = paired_difference([strong], [weak])
    by_hand = (
        evaluate(strong).per_class_recall["monocyte"] - evaluate(weak).per_class_recall["monocyte"]
    )
    assert found["recall_monocyte"]["difference"] == pytest.approx(by_hand)
    low, high = found["recall_monocyte"]["interval"]
    assert low < by_hand < high


def test_predictions_survive_json() -> None:
    answers = some_predictions()
    again = Predictions.from_dict(answers.to_dict())
    assert again.digests == answers.digests and (again.predicted == answers.predicted).all()
    np.testing.assert_allclose(again.probabilities, answers.probabilities, atol=1e-6)


def test_draws_with_test_images_of_their_own_are_compared_pair_by_pair() -> None:
    def on(first: int, skill: float) -> Predictions:
        answers = some_predictions(first, skill)
        digests = tuple(f"{first + i:064x}" for i in range(len(answers.labels)))
        return Predictions(CLASSES, digests, answers.labels, answers.probabilities)

    weak, strong = ([on(1000 * draw, skill) for draw in range(3)] for skill in (0.5, 4.0))
    found = paired_difference(strong, weak, resample_runs=True)["macro_f1"]
    each = [paired_difference([s], [w])["macro_f1"] for s, w in zip(strong, weak, strict=True)]
    assert found["difference"] == pytest.approx(np.mean([one["difference"] for one in each]))
    assert 0 < found["interval"][0] < found["difference"] < found["interval"][1]
    figures = evaluate_runs(strong, resample_runs=True)
    assert figures.confusion.sum() == 270
    low, high = figures.per_class_recall_intervals["monocyte"]
    assert low <= figures.per_class_recall["monocyte"] <= high
    with pytest.raises(ValueError, match="different images"):
        evaluate_runs(strong)
    with pytest.raises(ValueError, match="different images"):
        paired_difference(strong, weak[::-1], resample_runs=True)
    other = Predictions(CLASSES[::-1], weak[0].digests, weak[0].labels, weak[0].probabilities)
    with pytest.raises(ValueError, match="different classes"):
        evaluate_runs([weak[0], other], resample_runs=True)
