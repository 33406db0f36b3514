"""Compares classifiers on the locked test set of their dataset: a **Report**.

``report.json`` for machines, ``report.html`` for people (one file, nothing fetched),
``metrics.csv`` for spreadsheets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from services.common import resource_names
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.resource_names import CLASSIFIERS, DATASETS, IMAGE_SETS, REPORTS
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.classifiers.job import PREDICTIONS_FILE, TEST_ANSWERS_FILE
from services.trainer.config import TrainerSettings

if TYPE_CHECKING:
    from services.trainer.jobs.context import JobContext
    from services.trainer.reports.content import Arms, ReportContent, Run

MAX_ARMS = 200
MAX_TITLE = 200
_MAX_LABEL = 60
#: Synthetic images per class that are searched for near-duplicates of training images, at most.
_MAX_SEARCHED_PER_CLASS = 500


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
    from services.trainer.reports.cells import sample_cells
    from services.trainer.reports.content import metrics_table, report_content
    from services.trainer.reports.page import render_page

    if ctx.store.exists(ctx.tenant, REPORTS, ctx.artifact_id):
        return ctx.artifact_id
    validate(spec, ctx.store, ctx.tenant, ctx.settings)
    ctx.progress("reading predictions", 0, 0, {})
    dataset_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    dataset = ctx.store.get_manifest(ctx.tenant, DATASETS, dataset_id)
    arms = read_arms(spec, ctx.store, ctx.tenant)
    ctx.progress("computing intervals", 0, 0, {})
    figures = report_content(spec, arms, dataset)
    image_sets = sorted({r.manifest["body"]["image_set"] for runs in _runs(arms) for r in runs})
    set_ids = [resource_names.parse(IMAGE_SETS, n, "image_set") for n in image_sets if n]
    ctx.progress("reading cells", 0, 0, {})
    cells = sample_cells(dataset_id, set_ids, _MAX_SEARCHED_PER_CLASS, ctx)
    content: ReportContent = {
        **figures,
        "num_synthetic": cells.num_synthetic,
        "near_copies": cells.near_duplicates,
    }
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


def read_arms(spec: Mapping[str, Any], store: ArtifactStore, tenant: str) -> Arms:
    """Runs by model and arm, in the order of the request.

    Raises:
        FailedPrecondition: If two classifiers were not tested on the same images.
    """
    from services.trainer.evaluation.answers import AnsweredTest
    from services.trainer.evaluation.predictions import Predictions
    from services.trainer.reports.content import Run

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


def _runs(arms: Arms) -> list[list[Run]]:
    return [runs for by_arm in arms.values() for runs in by_arm.values()]
