"""Compares classifiers on the locked test set of their dataset: a **Report**.

``report.json`` for machines, ``report.html`` for people (one file, nothing fetched),
``metrics.csv`` for spreadsheets.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.common import resource_names
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.resource_names import CLASSIFIERS, DATASETS, IMAGE_SETS, REPORTS
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.classifiers.job import PREDICTIONS_FILE, TEST_ANSWERS_FILE
from services.trainer.config import TrainerSettings
from services.trainer.datasets.reading import digests_of_split

if TYPE_CHECKING:
    from services.trainer.evaluation.answers import AnsweredTest
    from services.trainer.evaluation.metrics import Predictions
    from services.trainer.jobs.context import JobContext

BASELINE_ARM = "real_only"
RESEARCH_USE = "Research use only — not a medical device"
MAX_ARMS = 200
MAX_TITLE = 200
_MAX_LABEL = 60
#: Synthetic images per class that are searched for near-duplicates of training images, at most.
_MAX_SEARCHED_PER_CLASS = 500


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
    manifest: dict[str, Any]
    predictions: Predictions
    answered: AnsweredTest | None = None


def validate(
    spec: Mapping[str, Any], store: ArtifactStore, tenant: str, settings: TrainerSettings
) -> None:
    """Refuses a request that cannot be carried out.

    Raises:
        InvalidArgument: Naming the field.
        NotFound: If the dataset or a classifier does not exist.
        FailedPrecondition: If a classifier was trained on another dataset.
    """
    dataset_id = resource_names.parse(DATASETS, spec.get("dataset", ""), "dataset")
    store.get_manifest(tenant, DATASETS, dataset_id)
    if len(spec.get("title") or "") > MAX_TITLE:
        raise InvalidArgument("title", "is too long", f"send at most {MAX_TITLE} characters")
    for phase, seconds in (spec.get("phase_seconds") or {}).items():
        if not math.isfinite(seconds) or seconds < 0:
            path = f"phase_seconds[{phase[:40]!r}]"
            raise InvalidArgument(path, f"is {seconds}", "send seconds, 0 or more")
    arms = spec.get("arms") or []
    if not 1 <= len(arms) <= MAX_ARMS:
        raise InvalidArgument("arms", f"has {len(arms)} entries", f"send 1 to {MAX_ARMS}")
    for number, arm in enumerate(arms):
        for name in ("model", "arm"):
            if not 1 <= len(arm.get(name) or "") <= _MAX_LABEL:
                path = f"arms[{number}].{name}"
                raise InvalidArgument(
                    path, "is empty or too long", f"send 1 to {_MAX_LABEL} characters"
                )
        path = f"arms[{number}].classifier"
        classifier_id = resource_names.parse(CLASSIFIERS, arm.get("classifier", ""), path)
        manifest = store.get_manifest(tenant, CLASSIFIERS, classifier_id)
        if manifest["body"]["dataset"] != spec["dataset"]:
            raise FailedPrecondition(
                arm["classifier"],
                f"was trained on {manifest['body']['dataset']}, not on {spec['dataset']}",
                "compare classifiers of one dataset",
            )


def run(spec: Mapping[str, Any], ctx: JobContext) -> str:
    """Writes the report.

    Returns:
        Id of the report.

    Raises:
        Cancelled: If a cancel was asked.
        DomainError: As ``validate``.
    """
    from services.trainer.reports.page import render_page, sample_cells

    if ctx.store.exists(ctx.tenant, REPORTS, ctx.artifact_id):
        return ctx.artifact_id
    validate(spec, ctx.store, ctx.tenant, ctx.settings)
    ctx.progress("reading predictions", 0, 0, {})
    dataset_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    dataset = ctx.store.get_manifest(ctx.tenant, DATASETS, dataset_id)
    arms = read_arms(spec, ctx.store, ctx.tenant)
    ctx.progress("computing intervals", 0, 0, {})
    content = report_content(spec, arms, dataset)
    image_sets = sorted({r.manifest["body"]["image_set"] for runs in _runs(arms) for r in runs})
    set_ids = [resource_names.parse(IMAGE_SETS, n, "image_set") for n in image_sets if n]
    ctx.progress("drawing cells", 0, 0, {})
    cells = sample_cells(dataset_id, set_ids, _MAX_SEARCHED_PER_CLASS, ctx)
    content["num_synthetic"] = cells.num_synthetic
    content["near_copies"] = cells.near_duplicates
    draft = ctx.store.new_draft(ctx.tenant, REPORTS, ctx.artifact_id)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    draft.write("report.json", text.encode())
    draft.write("report.html", render_page(content, cells).encode())
    draft.write("metrics.csv", metrics_table(content).encode())
    draft.commit(
        {
            "parents": [
                *dict.fromkeys([spec["dataset"], *(arm["classifier"] for arm in spec["arms"])])
            ],
            "settings": {"title": spec.get("title", ""), "arms": list(spec["arms"])},
            "seed": 0,
            "code_version": code_version(),
            "metrics": {},
            "digests": dataset["digests"],  # it shows training images
            "body": {"dataset": spec["dataset"], "num_synthetic": content["num_synthetic"]},
        }
    )
    return ctx.artifact_id


Arms = dict[str, dict[str, list[Run]]]


def read_arms(spec: Mapping[str, Any], store: ArtifactStore, tenant: str) -> Arms:
    """Runs by model and arm, in the order of the request.

    Raises:
        FailedPrecondition: If two classifiers were not tested on the same images.
    """
    from services.trainer.evaluation.answers import AnsweredTest
    from services.trainer.evaluation.metrics import Predictions

    arms: Arms = {}
    tested: tuple[str, ...] | None = None
    for arm in spec["arms"]:
        classifier_id = resource_names.parse(CLASSIFIERS, arm["classifier"], "arms.classifier")
        data = json.loads(store.read(tenant, CLASSIFIERS, classifier_id, PREDICTIONS_FILE))
        predictions = Predictions.from_dict(data)
        if tested is not None and predictions.digests != tested:
            raise FailedPrecondition(
                arm["classifier"], "was tested on other images", "train it on this dataset again"
            )
        tested = predictions.digests
        manifest = store.get_manifest(tenant, CLASSIFIERS, classifier_id)
        runs = arms.setdefault(arm["model"], {}).setdefault(arm["arm"], [])
        answered = None
        if TEST_ANSWERS_FILE in manifest["files"]:
            data = json.loads(store.read(tenant, CLASSIFIERS, classifier_id, TEST_ANSWERS_FILE))
            answered = AnsweredTest.from_dict(data)
        runs.append(Run(arm["classifier"], manifest, predictions, answered))
    return arms


def report_content(spec: Mapping[str, Any], arms: Arms, dataset: dict[str, Any]) -> dict[str, Any]:
    """Everything that ``report.json`` says, the synthetic images aside."""
    from services.trainer.evaluation.answers import answer_figures
    from services.trainer.evaluation.metrics import evaluate_runs, paired_difference

    patients = patient_ids(dataset)
    figures: dict[str, dict[str, Any]] = {}
    differences: dict[str, dict[str, Any]] = {}
    for model, by_arm in arms.items():
        figures[model] = {}
        for arm, runs in by_arm.items():
            answers = [run.predictions for run in runs]
            evaluation = evaluate_runs(answers, patients=patients).to_dict()
            answered = [run.answered for run in runs if run.answered is not None]
            whole = len(answered) == len(runs)
            figures[model][arm] = {
                **evaluation.pop("metrics"),
                **evaluation,
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


def dataset_facts(name: str, dataset: dict[str, Any]) -> dict[str, Any]:
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


def training_facts(manifest: dict[str, Any]) -> dict[str, Any]:
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


def metrics_table(content: Mapping[str, Any]) -> str:
    """CSV of model, arm, metric, value and 95 % interval."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["model", "arm", "metric", "value", "low", "high"])
    for model, by_arm in content["arms"].items():
        for arm, figures in by_arm.items():
            table.writerows([model, arm, *row] for row in metric_rows(figures))
    return buffer.getvalue()


def metric_rows(figures: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Metric, value, low and high end of one arm's figures and recalls."""
    for metric, bounds in figures["intervals"].items():
        yield metric, figures[metric], *bounds
    for class_id, bounds in figures["per_class_recall_intervals"].items():
        yield f"recall:{class_id}", figures["per_class_recall"][class_id], *bounds


def _runs(arms: Arms) -> list[list[Run]]:
    return [runs for by_arm in arms.values() for runs in by_arm.values()]
