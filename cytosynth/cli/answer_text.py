"""Answers and their figures as JSON, CSV and tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cytosynth.client import Classification, CytosynthError

_MEASURED = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "macro_f1_kept": "macro-F1 of the 80 % least in need of review",
    "ece": "calibration error (ECE)",
    "mean_set_size": "classes in a prediction set",
    "share_needing_review": "share needing review",
}


def answers_json(
    answers: Sequence[tuple[Path, Classification]],
    refused: Sequence[tuple[Path, CytosynthError]],
) -> str:
    """Everything that was answered, and the errors of images that were refused."""
    context = answers[0][1].context if answers else None
    body: dict[str, Any] = {"model": answers[0][1].model if answers else ""}
    if context is not None and context.manifest_digest:
        body |= {
            "manifest_digest": context.manifest_digest,
            "calibrated": context.calibrated,
            "coverage": context.coverage if context.conformal else None,
            "prior_source": context.prior_source,
            "class_priors": dict(context.class_priors),
            "runtime": context.runtime,
        }
    body["images"] = [
        {
            "file": str(file),
            "class": answer.class_id,
            "probability": answer.probability,
            "probabilities": dict(answer.probabilities),
            "prediction_set": list(answer.prediction_set),
            "out_of_distribution_score": answer.out_of_distribution_score,
            "needs_review": answer.needs_review,
            "review_reasons": list(answer.review_reasons),
            "image_sha256": answer.image_sha256,
            "request_id": answer.context.request_id,
            "notices": list(answer.notices),
        }
        for file, answer in answers
    ]
    if refused:
        body["errors"] = [{"file": str(file), **error.to_dict()} for file, error in refused]
    return json.dumps(body, indent=2) + "\n"


def answers_csv(answers: Sequence[tuple[Path, Classification]]) -> str:
    """A row per image, a column per class; lists by spaces."""
    class_ids = sorted({class_id for _, answer in answers for class_id in answer.probabilities})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("file", "model", "class", *(f"p_{class_id}" for class_id in class_ids), "prediction_set",
         "out_of_distribution_score", "needs_review", "review_reasons", "image_sha256", "coverage",
         "calibrated", "prior_source", "runtime", "notices", "manifest_digest", "request_id")
    )  # fmt: skip
    for file, answer in answers:
        shares = (answer.probabilities.get(class_id) for class_id in class_ids)
        score, context = answer.out_of_distribution_score, answer.context
        writer.writerow(
            (
                file,
                answer.model,
                answer.class_id,
                *("" if share is None else f"{share:.6f}" for share in shares),
                " ".join(answer.prediction_set),
                "" if score is None else f"{score:.4f}",
                str(answer.needs_review).lower(),
                " ".join(answer.review_reasons),
                answer.image_sha256,
                f"{context.coverage:g}" if context.conformal else "",
                str(context.calibrated).lower(),
                context.prior_source,
                context.runtime,
                "; ".join(answer.notices),
                context.manifest_digest,
                context.request_id,
            )
        )
    return text.getvalue()


def figure_tables(
    figures: Mapping[str, Any],
) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each table of an evaluation."""
    rows: list[tuple[str, ...]] = []
    for name, label in _MEASURED.items():
        if name in figures:
            low, high = figures[name]["interval"]
            rows.append((label, f"{figures[name]['value']:.3f}", f"{low:.3f} – {high:.3f}"))
    if figures.get("non_cell_auc") is not None:
        rows.append(("AUC against pictures without a cell", f"{figures['non_cell_auc']:.3f}", ""))
    calibrated = "calibrated" if figures["calibrated"] else "not calibrated"
    title = f"{figures['model']}, {calibrated}, {figures['num_images']} images"
    yield title, ("figure", "value", "95 % interval"), rows
    columns = ["class", "images", "recall"]
    coverage = figures.get("coverage_per_class", {})
    if coverage:
        columns.append(f"in the set at {100 * figures['coverage']:g} %")
    yield (
        "",
        tuple(columns),
        [
            (class_id, str(count), f"{figures['recall_per_class'][class_id]:.3f}")
            + ((f"{coverage[class_id]:.3f}",) if coverage else ())
            for class_id, count in figures["num_per_class"].items()
        ],
    )
