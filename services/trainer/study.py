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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from services.common import resource_names
from services.common.artifact_store import ArtifactStore
from services.common.bases import resolve_base
from services.common.clip_bases import resolve_clip_base
from services.common.code_version import code_version
from services.common.errors import FailedPrecondition
from services.common.images import sha256_hex
from services.common.resource_names import ADAPTERS, DATASETS, IMAGE_SETS, JOBS, REPORTS
from services.trainer import fit_adapter
from services.trainer.classifier_recipe import ClassifierRecipe, recipe_from_spec
from services.trainer.config import TrainerSettings
from services.trainer.contamination import check_blind, check_contamination
from services.trainer.datasets import image_home, load_images, side_digests, usable_classes
from services.trainer.fit_classifier import open_pool, synthetic_plan
from services.trainer.image_sets import SyntheticPlan, read_image_set
from services.trainer.redraw import redraw, split_of
from services.trainer.study_recipe import (
    REAL_ONLY,
    REAL_PLUS_PHANTOMS,
    SYNTHETIC_ARMS,
    SYNTHETIC_ONLY,
    ZERO_SHOT,
    Cell,
    StudySettings,
    phantom_classes,
)

if TYPE_CHECKING:
    from services.trainer.evaluate import Predictions
    from services.trainer.jobs import Checkpoints, JobContext, ProgressFn
    from services.trainer.train_classifier import LabelledImages

BLIND_DIFFUSION = "use a base that has not, for example cyto-small-phantoms"
BLIND_CLIP = "use a CLIP base that has not, for example cyto-clip-phantoms"


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
    if set(study.arms) & set(SYNTHETIC_ARMS):
        base = resolve_base(study.base, settings.models_dir, "settings.base")
        check_blind(f"base {base.name}", base.manifest, first, BLIND_DIFFUSION)
    if "clip" in study.models:
        clip = resolve_clip_base(study.clip_base, settings.models_dir, "settings.clip_base")
        check_blind(f"CLIP base {clip.name}", clip.manifest, first, BLIND_CLIP)
    return {
        "dataset": spec["dataset"],
        "title": spec.get("title") or "",
        "settings": study.to_dict(),
    }


def run(spec: Mapping[str, Any], ctx: JobContext) -> str:
    """Carries the study out; ``spec`` as ``validate`` gave it.

    Returns:
        Id of the report.

    Raises:
        Cancelled: If a cancel was asked.
        DomainError: As ``validate``; or the generator refused or was lost.
    """
    from services.trainer.evaluate import Predictions
    from services.trainer.study_report import study_files

    study = StudySettings.from_dict(spec["settings"])
    work = ctx.store.new_draft(ctx.tenant, JOBS, study_id(spec))
    cells = [cell for draw in range(study.num_draws) for cell in study.cells(draw)]
    overall = _Overall(ctx, study)
    draws = []
    for number in range(study.num_draws):
        draw = _Draw(spec, number, study, ctx, overall)
        for cell in study.cells(number):
            if not work.exists(cell.path):
                predictions = draw.train(cell)
                work.write(cell.path, json.dumps(predictions.to_dict()).encode())
            overall.finished(cell)
        draws.append(draw.facts())
    ctx.progress("computing intervals", 0, 0, {})
    answers = {cell: Predictions.from_dict(json.loads(work.read(cell.path))) for cell in cells}
    source_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    source = ctx.store.get_manifest(ctx.tenant, DATASETS, source_id)
    draft = ctx.store.new_draft(ctx.tenant, REPORTS, ctx.artifact_id)
    for path, data in study_files(spec, study, answers, draws, source).items():
        draft.write(path, data)
    draft.commit(
        {
            "parents": [spec["dataset"], *(draw["dataset"] for draw in draws)],
            "settings": study.to_dict(),
            "seed": study.seed,
            "code_version": code_version(),
            "metrics": {},
            "digests": sorted({digest for draw in draws for digest in draw.pop("train_digests")}),
            "body": {"dataset": spec["dataset"], "draws": draws},
        }
    )
    work.discard()
    return ctx.artifact_id


def study_id(spec: Mapping[str, Any]) -> str:
    """Id under which a study keeps its work: the same for the same request and code.

    So what a job that was cancelled has finished, the next job of the same study finds.
    """
    content = {"spec": {**spec, "title": ""}, "code_version": code_version()}
    return f"study-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]}"


class _Overall:
    """Progress over all draws, in optimizer steps."""

    def __init__(self, ctx: JobContext, study: StudySettings) -> None:
        self._ctx, self._study = ctx, study
        self._done = 0
        self._total = sum(
            self._steps(cell) for draw in range(study.num_draws) for cell in study.cells(draw)
        )

    def finished(self, cell: Cell) -> None:
        """Its steps are behind us."""
        self._done += self._steps(cell)

    def of(self, draw: int, what: str) -> ProgressFn:
        """Progress of one part, told as that of the whole."""
        label = f"draw {draw + 1} of {self._study.num_draws}: {what}"

        def progress(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
            trained = step if phase == "training classifier" else 0
            self._ctx.progress(label, self._done + trained, self._total, metrics)

        return progress

    def _steps(self, cell: Cell) -> int:
        return 0 if cell.arm == ZERO_SHOT else recipe_of(self._study, cell).num_steps


def recipe_of(study: StudySettings, cell: Cell) -> ClassifierRecipe:
    """The recipe of one classifier: the same for all arms but for the synthetic part."""
    settings: dict[str, Any] = {
        "preset": "paper" if study.preset == "paper" else "cpu",
        "architecture": cell.model,
        "seed": study.seed + cell.draw,
    }
    if study.num_steps:
        settings["num_steps"] = study.num_steps
    spec = {"settings": settings, "synthetic": {"loss_weight": study.loss_weight}}
    return recipe_from_spec(spec, study.clip_base)


class _Draw:
    """One split with everything that is trained on it."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        number: int,
        study: StudySettings,
        ctx: JobContext,
        overall: _Overall,
    ) -> None:
        self._number, self._study, self._overall = number, study, overall
        self._ctx = dataclasses.replace(
            ctx,
            job_id=f"{study_id(spec)}-draw{number}",
            progress=overall.of(number, "adapter and synthetic images"),
        )
        source_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
        source = ctx.store.get_manifest(ctx.tenant, DATASETS, source_id)
        split = study.split(number, sorted(source["body"]["classes"]))
        self._dataset_id = self._ctx.job_id
        self._dataset = redraw(
            ctx.store, ctx.tenant, source_id, split, self._dataset_id, ctx.settings
        )
        self._class_ids = usable_classes(self._dataset)
        self._sides: dict[tuple[str, int], Any] = {}
        self._checked: set[str] = set()

    def train(self, cell: Cell) -> Predictions:
        """Trains one classifier and gives its answers on the locked test images."""
        from services.common.classifier_models import build_model
        from services.trainer.classifier_run import (
            classifier_config,
            labelled,
            predict,
            train_and_test,
        )

        ctx = self._ctx
        what = f"{cell.model}, {cell.arm}" + (
            f" {cell.num_per_class}" if cell.num_per_class else ""
        )
        progress = self._overall.of(self._number, what)
        recipe = recipe_of(self._study, cell)
        config, _ = classifier_config(recipe, self._class_ids, ctx.settings)
        check_contamination({}, recipe, self._dataset, ctx.store, ctx.tenant, ctx.settings)
        if cell.arm == ZERO_SHOT:
            model = build_model(config, ctx.settings.models_dir).eval()
            return predict(
                model, config, self._side("test", config.image_size), ctx.settings, progress
            )
        real = labelled(self._side("train", config.image_size), config.class_ids)
        with self._added(cell, config.image_size) as added:
            alone = cell.arm == SYNTHETIC_ONLY
            done = train_and_test(
                recipe,
                config,
                added.wait_for(1.0) if alone else real,
                None if alone else added,
                lambda: self._side("test", config.image_size),
                ctx.settings,
                progress,
                _Scoped(ctx.checkpoints, cell.path),
            )
        return done.predictions

    @contextmanager
    def _added(self, cell: Cell, image_size: int) -> Iterator[Any]:
        """What the arm adds to the real images; None for real images alone."""
        if cell.arm == REAL_ONLY:
            yield None
        elif cell.arm == REAL_PLUS_PHANTOMS:
            from services.trainer.study_phantoms import phantom_images

            yield phantom_images(
                self._class_ids, cell.num_per_class, self._study.seed + cell.draw, image_size
            )
        else:
            self._fit_adapter()
            with open_pool(self._plan(), image_size, self._ctx) as pool:
                if pool.image_set() not in self._checked:
                    self._check_not_tested(pool.image_set())
                yield _FirstOfEach(pool, cell.num_per_class)

    def _plan(self) -> SyntheticPlan:
        """The synthetic images of this draw, of which every arm takes the first ones."""
        spec = {
            "adapter": resource_names.build(ADAPTERS, self._ctx.artifact_id),
            "num_per_class": self._study.num_per_class[-1],
            "seed": self._study.seed + self._number,
            "sampler": {"preset": self._study.sampler_preset},
        }
        return synthetic_plan(spec, self._class_ids, self._ctx.store, self._ctx.tenant)

    def _check_not_tested(self, image_set: str) -> None:
        """Makes sure that no synthetic image is one of the locked test images."""
        ctx = self._ctx
        locked = {each for side in side_digests(self._dataset, "test").values() for each in side}
        id = resource_names.parse(IMAGE_SETS, image_set, "image_set")
        images = read_image_set(ctx.store, ctx.tenant, id, self._study.num_per_class[-1])
        drawn = {sha256_hex(data) for files in images.values() for data in files}
        if drawn & locked:
            problem = f"{len(drawn & locked)} of its locked test images are synthetic"
            raise FailedPrecondition(self._dataset["name"], problem, "upload real images only")
        self._checked.add(image_set)

    def _fit_adapter(self) -> None:
        """Fits this draw's adapter to its training images, if it is not there yet."""
        ctx = self._ctx
        name = resource_names.build(ADAPTERS, ctx.artifact_id)
        if not ctx.store.exists(ctx.tenant, ADAPTERS, ctx.artifact_id):
            settings: dict[str, Any] = {
                "preset": "paper" if self._study.preset == "paper" else "cpu",
                "seed": self._study.seed + self._number,
            }
            if self._study.adapter_steps:
                settings["num_steps"] = self._study.adapter_steps
            asked = {
                "dataset": self._dataset["name"],
                "base": self._study.base,
                "settings": settings,
            }
            spec = fit_adapter.validate(asked, ctx.store, ctx.tenant, ctx.settings)
            scoped: Any = _Scoped(ctx.checkpoints, name)
            fit_adapter.run(spec, dataclasses.replace(ctx, checkpoints=scoped))

    def _side(self, side: Any, size: int) -> Any:
        if (side, size) not in self._sides:
            ctx = self._ctx
            self._sides[side, size] = load_images(
                ctx.store, ctx.tenant, self._dataset_id, side, size, ctx.settings
            )
        return self._sides[side, size]

    def facts(self) -> dict[str, Any]:
        """What repeats this draw: names, digests, seeds."""
        ctx = self._ctx
        body = self._dataset["body"]
        sides = {side: side_digests(self._dataset, side) for side in ("train", "test")}
        models: dict[str, Any] = {}
        if set(self._study.arms) & set(SYNTHETIC_ARMS):
            adapter = ctx.store.get_manifest(ctx.tenant, ADAPTERS, ctx.artifact_id)
            models = {
                "adapter": adapter["name"],
                "adapter_files": adapter["files"],
                "base": adapter["base"],
                "base_revision": adapter["base_revision"],
                "image_set": resource_names.build(IMAGE_SETS, self._plan().image_set_id),
            }
        return models | {
            "dataset": self._dataset["name"],
            "images_of": resource_names.build(DATASETS, image_home(self._dataset)),
            "seed": self._dataset["seed"],
            "split_digest": body["split_digest"],
            "center_crop": body["center_crop"],
            "notices": body["notices"],
            "num_train": {c: len(sides["train"][c]) for c in self._class_ids},
            "num_test": {c: len(sides["test"][c]) for c in self._class_ids},
            "train_digests": self._dataset["digests"],
        }


class _FirstOfEach:
    """The first images of each class of a pool that is complete."""

    def __init__(self, pool: Any, num_per_class: int) -> None:
        from services.trainer.train_classifier import LabelledImages

        whole = pool.wait_for(1.0)
        kept: list[int] = []
        counts: dict[int, int] = {}
        for index, label in enumerate(whole.labels.tolist()):
            if counts.get(label, 0) < num_per_class:
                counts[label] = counts.get(label, 0) + 1
                kept.append(index)
        self._images = LabelledImages(whole.images[kept], whole.labels[kept])

    def wait_for(self, share: float) -> LabelledImages:
        """All of them: nothing is on its way any more."""
        return self._images


class _Scoped:
    """Checkpoints of one part of the study; those of another part count as none."""

    def __init__(self, checkpoints: Checkpoints, part: str) -> None:
        self._checkpoints = checkpoints
        self._part = hashlib.sha256(part.encode()).hexdigest()[:16]

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """The state of this part, if the last checkpoint is of it."""
        found = self._checkpoints.load()
        if found is None or found[0].get("part") != self._part:
            return None
        return found[0]["state"], found[1]

    def due(self) -> bool:
        """Whether another is worth its time."""
        return self._checkpoints.due()

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        """Replaces the checkpoint, whosever it was."""
        self._checkpoints.save({"part": self._part, "state": state}, files)
