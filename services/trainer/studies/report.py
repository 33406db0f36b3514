"""What a study found, as ``report.json``, ``metrics.csv``, ``nearest.csv`` and a page.

Figures are means over draws. Their 95 % intervals are over draws and, within each, over test images
or patients (evaluate.py); differences are paired by draw.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.trainer.evaluation.metrics import (
    Predictions,
    evaluate,
    evaluate_runs,
    paired_difference,
)
from services.trainer.reports.job import RESEARCH_USE, dataset_facts, metric_rows, patient_ids
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
    Trial,
    recipe_of,
)

Answers = Mapping[Trial, Predictions]


def study_files(
    spec: Mapping[str, Any],
    study: StudySettings,
    answers: Answers,
    draws: Sequence[Mapping[str, Any]],
    measures: Sequence[Mapping[str, Any]],
    source: Mapping[str, Any],
) -> dict[str, bytes]:
    """The files of the report by name.

    Args:
        spec: The job's request.
        study: Its settings.
        answers: Of every classifier.
        draws: Names, digests and seeds of each draw.
        measures: Of the synthetic images of each draw (``measure_draw``); none without any.
        source: Manifest of the dataset that all draws are of.
    """
    content = study_content(spec, study, answers, draws, measures, source)
    gallery = measures[0]["gallery"] if measures else []
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    files = {
        "report.json": text.encode(),
        "report.html": render_study(content, gallery).encode(),
        "metrics.csv": metrics_table(content).encode(),
    }
    if measures:
        files["nearest.csv"] = nearest_table(draws, measures).encode()
    return files


def study_content(
    spec: Mapping[str, Any],
    study: StudySettings,
    answers: Answers,
    draws: Sequence[Mapping[str, Any]],
    measures: Sequence[Mapping[str, Any]],
    source: Mapping[str, Any],
) -> dict[str, Any]:
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
    content = {
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
                {**draw, "nearest": found["nearest"]}
                for draw, found in zip(draws, measures, strict=True)
            ]
        )
        if measures
        else None,
        "settings": study.to_dict(),
        "recipes": {
            model: dataclasses.asdict(recipe_of(study, Trial(0, model, REAL_ONLY, 0)))
            for model in study.models
        },
        "revisions": dict(spec["revisions"]),
        "dataset": dataset_facts(source["name"], dict(source)),
        "draws": [dict(draw) for draw in draws],
    }
    return content | {"goals": study_goals(content)}


def arm_key(trial: Trial) -> str:
    """How an arm with its amount of images is called: ``real_plus_synthetic_200``."""
    return f"{trial.arm}_{trial.num_per_class}" if trial.num_per_class else trial.arm


def _family(model: str) -> str:
    return "resnet" if model.startswith("resnet") else model


def _figures(runs: list[Predictions], patients: Mapping[str, str]) -> dict[str, Any]:
    found = evaluate_runs(runs, resample_runs=True, patients=patients).to_dict()
    return {
        **found.pop("metrics"),
        **found,
        "class_ids": list(runs[0].class_ids),
        "num_draws": len(runs),
        "num_tested": [len(run.labels) for run in runs],
        "per_draw_macro_f1": [evaluate(run).metrics["macro_f1"] for run in runs],
    }


def _difference(
    runs: list[Predictions], baseline: list[Predictions], patients: Mapping[str, str]
) -> dict[str, Any]:
    found = paired_difference(runs, baseline, resample_runs=True, patients=patients)
    return {
        metric: {"mean": d["difference"], "low": d["interval"][0], "high": d["interval"][1]}
        for metric, d in found.items()
    }


def nearest_table(draws: Sequence[Mapping[str, Any]], measures: Sequence[Mapping[str, Any]]) -> str:
    """CSV: of every synthetic image that classifiers learned from, the nearest training images.

    Training images are named by their digests; an image's number is that within its class of the
    draw's ImageSet.
    """
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    names = ["image_set", "class_id", "number"]
    names += ["nearest_by_features", "distance", "nearest_by_hash", "bits", "flagged"]
    table.writerow(names)
    for draw, found in zip(draws, measures, strict=True):
        table.writerows([draw["image_set"], *row] for row in found["nearest_of_each"])
    return buffer.getvalue()


def metrics_table(content: Mapping[str, Any]) -> str:
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
    if content["quality"]:
        table.writerows(quality_rows(content["quality"]))
        table.writerows(privacy_rows(content["privacy"]))
    return buffer.getvalue()
