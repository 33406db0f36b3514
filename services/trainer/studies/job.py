"""The job ``study``: does synthesis help, over several draws of a dataset? A **Report**.

Each draw is a split of its own, locked before anything is trained on it; on each are trained an
adapter and every classifier of the sweep, all arms with the same optimisation budget, the same real
batches and the same test images. What is finished is kept file by file: a study that was killed or
cancelled goes on with the first classifier that is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from services.common import resource_names
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.diffusion_bases import resolve_base
from services.common.resource_names import DATASETS, JOBS, REPORTS
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.classifiers.pretrained import classifier_base, describe_base
from services.trainer.compute.parallel_training import Stopped, num_workers, run_side_by_side
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
    ZERO_SHOT,
    Cell,
    StudySettings,
    phantom_classes,
    recipe_of,
)

if TYPE_CHECKING:
    from services.trainer.compute.training_run import ProgressFn
    from services.trainer.jobs.context import JobContext
    from services.trainer.studies.replicate import StudyDraw


def validate(
    spec: Mapping[str, Any], store: ArtifactStore, tenant: str, settings: TrainerSettings
) -> dict[str, Any]:
    """Checks a request before there is a job.

    Returns:
        The spec with the settings resolved, as the job gets it.

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
    drawn = split_of(source, study.split(0, sorted(source["body"]["classes"])))
    classes = {each.class_id: dataclasses.asdict(each) for each in drawn.classes}
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
    """Every pretrained model: what to call it, revision, manifest, what to use instead.

    Raises:
        InvalidArgument: Naming the field of a base that is not there.
    """
    if set(study.arms) & set(SYNTHETIC_ARMS):
        base = resolve_base(study.base, settings.models_dir, "settings.base")
        remedy = "use a base that has not, for example cyto-small-phantoms"
        yield f"base {base.name}", base.revision, base.manifest, remedy
    for cell in study.cells(0):
        recipe, path = recipe_of(study, cell), "clip_base"
        if cell.arm in TRANSFER_ARMS:
            path = "transfer_clip_base" if recipe.clip_base else "transfer_resnet_base"
        found = classifier_base(recipe, settings.models_dir, f"settings.{path}")
        if found is not None:
            subject, remedy = describe_base(found)
            yield subject, found.revision, found.manifest, remedy
    if set(study.arms) & set(SYNTHETIC_ARMS):
        space = resolve_feature_space(study.feature_space, settings.models_dir)
        # It measures images and is behind no answer, so it may have seen whatever it has.
        yield f"feature space {space.name}", space.revision, {}, ""


def run(spec: Mapping[str, Any], ctx: JobContext) -> str:
    """Carries the study out; ``spec`` as ``validate`` gave it.

    Returns:
        Id of the report.

    Raises:
        Cancelled: If a cancel was asked.
        DomainError: As ``validate``; or the generator refused or was lost.
    """
    import torch

    from services.trainer.compute.mixed_precision import plain_attention
    from services.trainer.evaluation.metrics import Predictions
    from services.trainer.studies.replicate import StudyDraw
    from services.trainer.studies.report import study_files

    study = StudySettings.from_dict(spec["settings"])
    revisions = {subject: revision for subject, revision, *_ in _bases(study, ctx.settings)}
    for subject, revision in revisions.items():
        if revision != spec["revisions"][subject]:
            raise FailedPrecondition(subject, "has changed since the request", "ask again")
    work = ctx.store.new_draft(ctx.tenant, JOBS, study_id(spec))
    cells = [cell for draw in range(study.num_draws) for cell in study.cells(draw)]
    workers = num_workers(ctx.settings.torch_device())
    overall = _Overall(ctx, study)
    draws = [
        StudyDraw(spec, number, study, ctx, work, partial(overall.of, number), workers > 1)
        for number in range(study.num_draws)
    ]
    _keep_common_classes(spec["dataset"], draws)
    has_synthetic = bool(set(study.arms) & set(SYNTHETIC_ARMS))
    missing = [
        [cell for cell in study.cells(number) if not work.exists(cell.path)]
        for number in range(study.num_draws)
    ]
    overall.skip(set(cells).difference(*missing))
    to_go, lock = [len(each) for each in missing], threading.Lock()

    def train(cell: Cell) -> None:
        draw = draws[cell.draw]
        predictions = draw.train(cell)
        work.write(cell.path, json.dumps(predictions.to_dict()).encode())
        overall.finished(cell)
        with lock:
            to_go[cell.draw] -= 1
            is_last = not to_go[cell.draw]
        if is_last:
            if has_synthetic:
                draw.measure()
                overall.idle()
            draw.release()

    # All the time, so that no figure hangs on what another thread does just then. A draw begins
    # while the last classifiers of the one before are trained, or a core would wait for them.
    with plain_attention(torch.device(ctx.settings.torch_device())):
        parts = [partial(train, cell) for each in missing for cell in _in_order(each)]
        run_side_by_side(parts, workers, overall.stop)
        measures = [draw.measure() for draw in draws] if has_synthetic else []
    facts = [draw.facts() for draw in draws]
    ctx.progress("computing intervals", 0, 0, {})
    answers = {cell: Predictions.from_dict(json.loads(work.read(cell.path))) for cell in cells}
    source_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    source = ctx.store.get_manifest(ctx.tenant, DATASETS, source_id)
    draft = ctx.store.new_draft(ctx.tenant, REPORTS, ctx.artifact_id)
    for path, data in study_files(spec, study, answers, facts, measures, source).items():
        draft.write(path, data)
    draft.commit(
        {
            "parents": [spec["dataset"], *(draw["dataset"] for draw in facts)],
            "settings": study.to_dict(),
            "seed": study.seed,
            "code_version": code_version(),
            "metrics": {},
            "digests": sorted({digest for draw in facts for digest in draw.pop("train_digests")}),
            "body": {"dataset": spec["dataset"], "draws": facts},
        }
    )
    work.discard()
    return ctx.artifact_id


def _in_order(cells: list[Cell]) -> list[Cell]:
    """Those of one draw; the first fits its adapter and draws its synthetic images.

    What needs none is trained meanwhile.
    """
    waiting = [cell for cell in cells if cell.arm in SYNTHETIC_ARMS]
    others = [cell for cell in cells if cell.arm not in SYNTHETIC_ARMS]
    return waiting[:1] + others + waiting[1:]


def _keep_common_classes(dataset: str, draws: list[StudyDraw]) -> None:
    """Leaves out of every draw what not every draw can train and test."""
    common = set(draws[0].class_ids).intersection(*(draw.class_ids for draw in draws))
    if len(common) < 2:
        problem = f"every draw can train and test {len(common)} class"
        remedy = "send more patients or images of each class, or ask for fewer shots"
        raise FailedPrecondition(dataset, problem, remedy)
    for draw in draws:
        draw.keep_classes(common)


def study_id(spec: Mapping[str, Any]) -> str:
    """Id under which a study keeps its work: the same for the same request and code.

    So what a job that was cancelled has finished, the next job of the same study finds.
    """
    content = {"spec": {**spec, "title": ""}, "code_version": code_version()}
    return f"study-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]}"


class _Overall:
    """Progress over all draws, in optimizer steps, of parts that may run side by side."""

    def __init__(self, ctx: JobContext, study: StudySettings) -> None:
        self._ctx, self._study = ctx, study
        self.stop = threading.Event()
        self._lock, self._done = threading.Lock(), 0
        self._running: dict[int, tuple[int, str, int]] = {}
        """What each thread is at: draw, part, steps."""
        self._total = sum(
            self._steps(cell) for draw in range(study.num_draws) for cell in study.cells(draw)
        )

    def skip(self, cells: Iterable[Cell]) -> None:
        """They were finished before."""
        self._done += sum(map(self._steps, cells))

    def finished(self, cell: Cell) -> None:
        """Its steps are behind us; called by the thread that trained it."""
        with self._lock:
            self._done += self._steps(cell)
        self.idle()

    def idle(self) -> None:
        """The calling thread is at nothing any more."""
        with self._lock:
            self._running.pop(threading.get_ident(), None)

    def of(self, draw: int, what: str) -> ProgressFn:
        """Progress of one part, told as that of the whole."""

        def progress(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
            if self.stop.is_set():
                raise Stopped
            with self._lock:
                trained = step if phase == "training classifier" else 0
                self._running[threading.get_ident()] = draw, what, trained
                running = sorted(self._running.values())
                done = self._done + sum(steps for *_, steps in running)
            parts: dict[int, dict[str, None]] = {}
            for number, name, _ in running:
                parts.setdefault(number, {})[name] = None
            label = "; ".join(
                f"draw {number + 1} of {self._study.num_draws}: {'; '.join(names)}"
                for number, names in parts.items()
            )
            self._ctx.progress(label, done, self._total, metrics)

        return progress

    def _steps(self, cell: Cell) -> int:
        return 0 if cell.arm == ZERO_SHOT else recipe_of(self._study, cell).num_steps
