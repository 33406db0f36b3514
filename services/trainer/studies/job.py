"""The job ``study``: measures whether synthesis helps, as a **Report**.

Each replicate is a split of its own, locked before anything is trained on it. An adapter and every
classifier of the sweep are trained on each replicate. All arms have the same optimisation budget,
the same real batches and the same test images. Finished parts are kept file by file: a study that
was killed or cancelled resumes with the parts that are missing, and within those interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from services.common import resource_names
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.diffusion_bases import resolve_base
from services.common.resource_names import DATASETS, JOBS, REPORTS
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.classifiers.pretrained import classifier_base, describe_base
from services.trainer.config import TrainerSettings
from services.trainer.datasets.leakage import check_blind
from services.trainer.datasets.reading import usable_classes
from services.trainer.datasets.resplitting import spare_digests, split_of
from services.trainer.evaluation.feature_space import resolve_feature_space
from services.trainer.studies.recipe import (
    REAL_PLUS_FURTHER_REAL,
    REAL_PLUS_PHANTOMS,
    SYNTHETIC_ARMS,
    TRANSFER_ARMS,
    StudySettings,
    StudySpec,
    hyperparameters_of,
    phantom_classes,
)
from services.trainer.studies.workers.parts import replicate_parts

if TYPE_CHECKING:
    from services.trainer.jobs.context import JobContext
    from services.trainer.studies.replicate import Replicate
    from services.trainer.studies.results import ReplicateFacts


def validate(
    spec: Mapping[str, Any], store: ArtifactStore, tenant: str, settings: TrainerSettings
) -> StudySpec:
    """Checks a request before there is a job.

    Raises:
        InvalidArgument: Naming the field that is wrong.
        NotFound: If there is no such dataset.
        FailedPrecondition: If a base has seen a test image, or fewer than two classes can be
            tested.
    """
    study = StudySettings.from_spec(spec.get("settings") or {})
    study = dataclasses.replace(
        study,
        base=study.base or settings.default_base,
        clip_base=study.clip_base or settings.default_clip,
    )
    study = dataclasses.replace(study, feature_space=study.feature_space or study.clip_base)
    dataset_id = resource_names.parse(DATASETS, spec.get("dataset", ""), "dataset")
    source = store.get_manifest(tenant, DATASETS, dataset_id)
    first_split = split_of(source, study.split(0, sorted(source["body"]["classes"])))
    classes = {each.class_id: dataclasses.asdict(each) for each in first_split.classes}
    first = {"body": {**source["body"], "classes": classes}}
    class_ids = usable_classes(first)
    if len(class_ids) < 2:
        problem = f"{len(class_ids)} class can be trained and tested"
        raise FailedPrecondition(spec["dataset"], problem, "upload at least two classes")
    if not phantom_classes(class_ids):
        arms = tuple(arm for arm in study.arms if arm != REAL_PLUS_PHANTOMS)
        study = dataclasses.replace(study, arms=arms)
    if REAL_PLUS_FURTHER_REAL in study.arms and not any(spare_digests(first).values()):
        problem = f"{REAL_PLUS_FURTHER_REAL} needs real images that neither train nor test"
        remedy = "lower max_test_per_class, upload more images or leave the arm out"
        raise InvalidArgument("settings.arms", problem, remedy)
    revisions = {}
    for subject, revision, manifest, remedy in _bases(study, settings):
        check_blind(subject, manifest, first, remedy)
        revisions[subject] = revision
    return {
        "dataset": spec["dataset"],
        "title": spec.get("title") or "",
        "settings": study.to_dict(),
        "revisions": revisions,
    }


def _bases(
    study: StudySettings, settings: TrainerSettings
) -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    """Name, revision, manifest and remedy of every pretrained model.

    Raises:
        InvalidArgument: Naming the field of a base that is not there.
    """
    if set(study.arms) & set(SYNTHETIC_ARMS):
        base = resolve_base(study.base, settings.models_dir, "settings.base")
        remedy = "use a base that has not, for example cyto-small-phantoms"
        yield f"base {base.name}", base.revision, base.manifest, remedy
    for trial in study.trials(0):
        hparams, path = hyperparameters_of(study, trial), "clip_base"
        if trial.arm in TRANSFER_ARMS:
            path = "transfer_clip_base" if hparams.clip_base else "transfer_resnet_base"
        found = classifier_base(hparams, settings.models_dir, f"settings.{path}")
        if found is not None:
            subject, remedy = describe_base(found)
            yield subject, found.revision, found.manifest, remedy
    if set(study.arms) & set(SYNTHETIC_ARMS):
        space = resolve_feature_space(study.feature_space, settings.models_dir)
        # A feature space measures images and is behind no answer: it may have seen test images.
        yield f"feature space {space.name}", space.revision, {}, ""


def run(spec: StudySpec, ctx: JobContext) -> str:
    """Carries the study out; ``spec`` as ``validate`` gave it.

    Returns:
        Id of the report.

    Raises:
        Cancelled: If a cancel was asked.
        DomainError: As ``validate``; or the generator refused or was lost.
    """
    from services.trainer.compute.parallel_training import num_workers
    from services.trainer.evaluation.predictions import Predictions
    from services.trainer.studies.facts import replicate_facts
    from services.trainer.studies.measures import read_measures
    from services.trainer.studies.replicate import Replicate, lock_split
    from services.trainer.studies.report import study_files
    from services.trainer.studies.workers.progress import StudyProgress
    from services.trainer.studies.workers.worker import (
        StudyRun,
        carry_out_here,
        carry_out_in_processes,
    )

    study = StudySettings.from_dict(spec["settings"])
    revisions = {subject: revision for subject, revision, *_ in _bases(study, ctx.settings)}
    for subject, revision in revisions.items():
        if revision != spec["revisions"][subject]:
            raise FailedPrecondition(subject, "has changed since the request", "ask again")
    work = ctx.store.new_draft(ctx.tenant, JOBS, study_id(spec))
    numbers = range(study.num_draws)
    overall = StudyProgress(ctx.progress, study)
    for number in numbers:
        lock_split(spec["dataset"], number, study, ctx, work)
    class_ids = _common_classes(spec["dataset"], [Replicate(n, study, ctx, work) for n in numbers])
    has_synthetic = bool(set(study.arms) & set(SYNTHETIC_ARMS))
    trials = [trial for number in numbers for trial in study.trials(number)]
    missing = [trial for trial in trials if not work.exists(trial.path)]
    overall.skip(set(trials).difference(missing))
    parts = [
        part
        for number in numbers
        for part in replicate_parts(
            number, [trial for trial in missing if trial.replicate == number], has_synthetic
        )
    ]
    study_run = StudyRun(study, work.id, class_ids)
    num_processes = num_workers(ctx.settings.torch_device())
    if num_processes == 1:
        carry_out_here(parts, study_run, ctx, overall)
    else:
        carry_out_in_processes(parts, study_run, ctx, overall, num_processes)
    replicates = [Replicate(number, study, ctx, work, class_ids) for number in numbers]
    measures = [read_measures(replicate) for replicate in replicates] if has_synthetic else []
    facts = [replicate_facts(replicate) for replicate in replicates]
    ctx.progress("computing intervals", 0, 0, {})
    answers = {trial: Predictions.from_dict(json.loads(work.read(trial.path))) for trial in trials}
    source_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    source = ctx.store.get_manifest(ctx.tenant, DATASETS, source_id)
    draft = ctx.store.new_draft(ctx.tenant, REPORTS, ctx.artifact_id)
    for path, data in study_files(spec, study, answers, facts, measures, source).items():
        draft.write(path, data)
    draft.commit(
        {
            "parents": [spec["dataset"], *(each["dataset"] for each in facts)],
            "settings": study.to_dict(),
            "seed": study.seed,
            "code_version": code_version(),
            "metrics": {},
            "digests": sorted({digest for each in facts for digest in each["train_digests"]}),
            "body": {"dataset": spec["dataset"], "draws": [_short(each) for each in facts]},
        }
    )
    work.discard()
    return ctx.artifact_id


def _short(facts: ReplicateFacts) -> dict[str, object]:
    """Facts of a replicate without its long lists, for the manifest."""
    return {key: value for key, value in facts.items() if key != "train_digests"}


def _common_classes(dataset: str, replicates: list[Replicate]) -> tuple[str, ...]:
    """Classes that every replicate can train and test."""
    common = set.intersection(*(set(replicate.class_ids) for replicate in replicates))
    if len(common) < 2:
        problem = f"every replicate can train and test {len(common)} class"
        remedy = "send more patients or images of each class, or ask for fewer shots"
        raise FailedPrecondition(dataset, problem, remedy)
    return tuple(sorted(common))


def study_id(spec: Mapping[str, object]) -> str:
    """Id of a study's work folder, by request and code.

    The next job of the same study finds what a cancelled job has finished.
    """
    content = {"spec": {**spec, "title": ""}, "code_version": code_version()}
    return f"study-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]}"
