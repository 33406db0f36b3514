"""Writes the report of a study: ``report.json``, tables and a page.

Figures are means over replicates. The 95 % intervals are over replicates and, within each, over
test images or patients (``evaluation/metrics.py``); differences are paired by replicate.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.trainer.evaluation.metrics import evaluate, evaluate_runs, paired_difference
from services.trainer.evaluation.predictions import Predictions
from services.trainer.reports.content import RESEARCH_USE, dataset_facts, metric_rows, patient_ids
from services.trainer.studies.goals import study_goals
from services.trainer.studies.page import render_study
from services.trainer.studies.privacy import privacy_content, privacy_rows
from services.trainer.studies.quality import quality_rows, study_quality
from services.trainer.studies.recipe import (
    REAL_ONLY,
    REAL_PLUS_SYNTHETIC,
    TRANSFER_REAL_ONLY,
    TRANSFER_REAL_PLUS_SYNTHETIC,
    StudySettings,
    StudySpec,
    Trial,
    hyperparameters_of,
)
from services.trainer.studies.results import (
    ArmFigures,
    Differences,
    Findings,
    Measures,
    ReplicateFacts,
    StudyContent,
)

Answers = Mapping[Trial, Predictions]


def study_files(
    spec: StudySpec,
    study: StudySettings,
    answers: Answers,
    replicates: Sequence[ReplicateFacts],
    measures: Sequence[Measures],
    source: Mapping[str, Any],
) -> dict[str, bytes]:
    """The files of the report by name.

    Args:
        spec: The job's request.
        study: Settings of the study.
        answers: Answers of every classifier.
        replicates: Names, digests and seeds of each replicate.
        measures: Measures of the synthetic images of each replicate; empty without any.
        source: Manifest of the dataset that was split.
    """
    content = study_content(spec, study, answers, replicates, measures, source)
    gallery = measures[0]["gallery"] if measures else []
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    files = {
        "report.json": text.encode(),
        "report.html": render_study(content, gallery).encode(),
        "metrics.csv": metrics_table(content).encode(),
    }
    if measures:
        files["nearest.csv"] = nearest_table(replicates, measures).encode()
    return files


def study_content(
    spec: StudySpec,
    study: StudySettings,
    answers: Answers,
    replicates: Sequence[ReplicateFacts],
    measures: Sequence[Measures],
    source: Mapping[str, Any],
) -> StudyContent:
    """Everything that ``report.json`` says."""
    by_arm: dict[str, dict[str, list[Predictions]]] = {}
    for trial in sorted(answers, key=lambda trial: trial.replicate):
        by_arm.setdefault(trial.model, {}).setdefault(arm_key(trial), []).append(answers[trial])
    patients = patient_ids(source)
    most = study.num_per_class[-1]
    headline = arm_key(Trial(0, "", REAL_PLUS_SYNTHETIC, most))
    with_transfer = arm_key(Trial(0, "", TRANSFER_REAL_PLUS_SYNTHETIC, most))
    differences = {
        model: {
            key: _difference(runs, by_key[REAL_ONLY], patients)
            for key, runs in by_key.items()
            if key != REAL_ONLY
        }
        for model, by_key in by_arm.items()
    }
    content: Findings = {
        "notice": RESEARCH_USE,
        "title": spec["title"] or f"Study: {source['body']['display_name'] or source['name']}",
        "headline_arm": headline,
        "paired_difference": {
            _family(model): found[headline]
            for model, found in differences.items()
            if headline in found
        },
        "paired_difference_transfer": {
            _family(model): _difference(by_key[with_transfer], by_key[TRANSFER_REAL_ONLY], patients)
            for model, by_key in by_arm.items()
            if {with_transfer, TRANSFER_REAL_ONLY} <= by_key.keys()
        },
        "arms": {
            model: {key: _figures(runs, patients) for key, runs in by_key.items()}
            for model, by_key in by_arm.items()
        },
        "differences": differences,
        "quality": study_quality(
            [found["quality"] for found in measures], measures[0]["feature_space"]
        )
        if measures
        else None,
        "privacy": privacy_content(
            [
                {
                    "num_synthetic": each["num_synthetic"],
                    "num_redrawn": each["num_redrawn"],
                    "num_withheld": each["num_withheld"],
                    "membership_inference": each["membership_inference"],
                    "nearest": found["nearest"],
                }
                for each, found in zip(replicates, measures, strict=True)
            ]
        )
        if measures
        else None,
        "settings": study.to_dict(),
        "recipes": {
            model: dataclasses.asdict(hyperparameters_of(study, Trial(0, model, REAL_ONLY, 0)))
            for model in study.models
        },
        "revisions": dict(spec["revisions"]),
        "dataset": dataset_facts(source["name"], source),
        "draws": list(replicates),
    }
    return {**content, "goals": study_goals(content)}


def arm_key(trial: Trial) -> str:
    """How an arm with its amount of images is called: ``real_plus_synthetic_200``."""
    return f"{trial.arm}_{trial.num_per_class}" if trial.num_per_class else trial.arm


def _family(model: str) -> str:
    return "resnet" if model.startswith("resnet") else model


def _figures(runs: list[Predictions], patients: Mapping[str, str]) -> ArmFigures:
    found = evaluate_runs(runs, resample_runs=True, patients=patients)
    return {
        **found.figures(),
        "class_ids": list(runs[0].class_ids),
        "num_draws": len(runs),
        "num_tested": [len(run.labels) for run in runs],
        "per_draw_macro_f1": [evaluate(run).metrics["macro_f1"] for run in runs],
    }


def _difference(
    runs: list[Predictions], baseline: list[Predictions], patients: Mapping[str, str]
) -> Differences:
    found = paired_difference(runs, baseline, resample_runs=True, patients=patients)
    return {
        metric: {"mean": d["difference"], "low": d["interval"][0], "high": d["interval"][1]}
        for metric, d in found.items()
    }


def nearest_table(replicates: Sequence[ReplicateFacts], measures: Sequence[Measures]) -> str:
    """CSV of the training images nearest to every synthetic image used.

    Training images are named by their digests; an image's number is that within its class of the
    replicate's ImageSet.
    """
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    names = ["image_set", "class_id", "number"]
    names += ["nearest_by_features", "distance", "nearest_by_hash", "bits", "flagged"]
    table.writerow(names)
    for each, found in zip(replicates, measures, strict=True):
        table.writerows([each["image_set"], *row] for row in found["nearest_of_each"])
    return buffer.getvalue()


def metrics_table(content: StudyContent) -> str:
    """CSV: model, arm, metric, value and 95 % interval; differences as ``difference:<metric>``.

    Rows of image quality have the feature space as their model, those of privacy none.
    """
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["model", "arm", "metric", "value", "low", "high"])
    for model, by_arm in content["arms"].items():
        for arm, figures in by_arm.items():
            table.writerows([model, arm, *row] for row in metric_rows(figures))
            for metric, d in content["differences"][model].get(arm, {}).items():
                row = [model, arm, f"difference:{metric}", d["mean"], d["low"], d["high"]]
                table.writerow(row)
    if content["quality"] and content["privacy"]:
        table.writerows(quality_rows(content["quality"]))
        table.writerows(privacy_rows(content["privacy"]))
    return buffer.getvalue()
