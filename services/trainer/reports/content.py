"""Content of a report: ``report.json`` and the table of metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from services.trainer.datasets.reading import digests_of_split
from services.trainer.evaluation.answers import AnsweredTest, answer_figures
from services.trainer.evaluation.metrics import (
    Figures,
    PairedDifference,
    evaluate_runs,
    paired_difference,
)
from services.trainer.evaluation.predictions import Predictions
from services.trainer.reports.cells import NearDuplicateSearch

BASELINE_ARM = "real_only"
RESEARCH_USE = "Research use only — not a medical device"


@dataclass(frozen=True)
class Run:
    """One classifier of an arm.

    Attributes:
        classifier: Its name.
        manifest: Its manifest.
        predictions: Its softmax on the test images.
        answered: Its calibrated answers to them; None if it has no calibration.
    """

    classifier: str
    manifest: Mapping[str, Any]
    predictions: Predictions
    answered: AnsweredTest | None = None


Arms = dict[str, dict[str, list[Run]]]
"""Runs by model and arm."""


class RunFacts(TypedDict):
    """One classifier of an arm."""

    classifier: str
    seed: int
    macro_f1: float


class TrainingFacts(TypedDict):
    """Training of a classifier; ``settings`` and ``synthetic`` as in its manifest."""

    settings: Mapping[str, Any]
    synthetic: Mapping[str, Any] | None
    image_set: str
    base: str
    base_revision: str
    num_steps: int
    batch_size: int
    synthetic_batch_size: int
    seconds: float
    code_version: str


class ArmFigures(Figures):
    """Figures of one arm; metrics are means over its runs."""

    num_runs: int
    per_run: list[RunFacts]
    training: TrainingFacts
    answers: dict[str, Any] | None


class ClassCounts(TypedDict):
    """Training and test images of a class."""

    num_train: int
    num_test: int


class DatasetFacts(TypedDict):
    """Facts of a dataset: classes, reasons of those left out, locked split."""

    name: str
    display_name: str
    split_digest: str
    split_seed: int
    center_crop: float
    classes: dict[str, ClassCounts]
    left_out: dict[str, str]
    notices: list[str]
    by_patient: bool
    num_images: int
    num_without_patient: int


class ReportFigures(TypedDict):
    """Everything that ``report.json`` says, the synthetic images aside."""

    notice: str
    title: str
    arms: dict[str, dict[str, ArmFigures]]
    paired_differences: dict[str, dict[str, dict[str, PairedDifference]]]
    num_synthetic: int
    seconds: dict[str, float]
    dataset: DatasetFacts
    test_digests: dict[str, list[str]]


class ReportContent(ReportFigures):
    """Everything that ``report.json`` says."""

    near_copies: NearDuplicateSearch


def report_content(
    spec: Mapping[str, Any], arms: Arms, dataset: Mapping[str, Any]
) -> ReportFigures:
    """Everything that ``report.json`` says, the synthetic images aside."""
    patients = patient_ids(dataset)
    figures: dict[str, dict[str, ArmFigures]] = {}
    differences: dict[str, dict[str, dict[str, PairedDifference]]] = {}
    for model, by_arm in arms.items():
        figures[model] = {}
        for arm, runs in by_arm.items():
            answers = [run.predictions for run in runs]
            answered = [run.answered for run in runs if run.answered is not None]
            whole = len(answered) == len(runs)
            figures[model][arm] = {
                **evaluate_runs(answers, patients=patients).figures(),
                "num_runs": len(runs),
                "per_run": [
                    {
                        "classifier": run.classifier,
                        "seed": run.manifest["seed"],
                        "macro_f1": run.manifest["metrics"]["macro_f1"],
                    }
                    for run in runs
                ],
                "training": training_facts(runs[0].manifest),
                "answers": answer_figures(answers, answered, patients) if whole else None,
            }
        baseline = by_arm.get(BASELINE_ARM)
        for arm, runs in by_arm.items():
            if baseline and arm != BASELINE_ARM:
                differences.setdefault(model, {})[f"{arm}_minus_{BASELINE_ARM}"] = (
                    paired_difference(
                        [run.predictions for run in runs],
                        [run.predictions for run in baseline],
                        patients=patients,
                    )
                )
    return {
        "notice": RESEARCH_USE,
        "title": spec.get("title") or dataset["body"]["display_name"] or spec["dataset"],
        "arms": figures,
        "paired_differences": differences,
        "num_synthetic": 0,
        "seconds": dict(spec.get("phase_seconds") or {}),
        "dataset": dataset_facts(spec["dataset"], dataset),
        "test_digests": digests_of_split(dataset, "test"),
    }


def patient_ids(dataset: Mapping[str, Any]) -> dict[str, str]:
    """Patient id by image digest, of the images that have one."""
    images = dataset["body"]["images"]
    return {digest: each["patient_id"] for digest, each in images.items() if each["patient_id"]}


def dataset_facts(name: str, dataset: Mapping[str, Any]) -> DatasetFacts:
    """Facts of a dataset: classes, what was left out, the locked split."""
    body = dataset["body"]
    return {
        "name": name,
        "display_name": body["display_name"],
        "split_digest": body["split_digest"],
        "split_seed": dataset["seed"],
        "center_crop": body["center_crop"],
        "classes": {
            class_id: {"num_train": len(split["train"]), "num_test": len(split["test"])}
            for class_id, split in sorted(body["classes"].items())
            if not split["left_out_reason"]
        },
        "left_out": {
            class_id: split["left_out_reason"]
            for class_id, split in sorted(body["classes"].items())
            if split["left_out_reason"]
        },
        "notices": body["notices"],
        "by_patient": any(image["patient_id"] for image in body["images"].values()),
        "num_images": len(body["images"]),
        "num_without_patient": sum(not image["patient_id"] for image in body["images"].values()),
    }


def training_facts(manifest: Mapping[str, Any]) -> TrainingFacts:
    """How a classifier was trained, from its manifest."""
    body = manifest["body"]
    return {
        "settings": manifest["settings"],
        "synthetic": body["synthetic"],
        "image_set": body["image_set"],
        "base": manifest["base"],
        "base_revision": manifest["base_revision"],
        "num_steps": body["training"]["num_steps"],
        "batch_size": body["training"]["batch_size"],
        "synthetic_batch_size": body["training"]["synthetic_batch_size"],
        "seconds": body["training"]["seconds"],
        "code_version": manifest["code_version"],
    }


def metrics_table(content: ReportContent) -> str:
    """CSV of model, arm, metric, value and 95 % interval."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["model", "arm", "metric", "value", "low", "high"])
    for model, by_arm in content["arms"].items():
        for arm, figures in by_arm.items():
            table.writerows([model, arm, *row] for row in metric_rows(figures))
    return buffer.getvalue()


def metric_rows(figures: Figures) -> Iterator[tuple[str, float, float, float]]:
    """Metric, value, low and high end of one arm's figures and recalls."""
    for metric, bounds in figures["intervals"].items():
        yield metric, figures[metric], *bounds
    for class_id, bounds in figures["per_class_recall_intervals"].items():
        yield f"recall:{class_id}", figures["per_class_recall"][class_id], *bounds
