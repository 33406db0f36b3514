"""One draw of a study: its locked split, its adapter, its synthetic images and its classifiers."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from services.common import resource_names
from services.common.errors import FailedPrecondition
from services.common.images.codec import center_square, decode_image, sha256_hex
from services.common.images.near_duplicates import HASH_PX, is_near_duplicate, training_hashes
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.image_classifier import ImageClassifier
from services.common.resource_names import ADAPTERS, DATASETS, IMAGE_SETS
from services.common.store.drafts import Draft
from services.trainer.adapters import job as fit_adapter
from services.trainer.classifiers.fit import (
    classifier_config,
    initial_model,
    predict,
    train_and_test,
)
from services.trainer.classifiers.image_sets import SyntheticPlan, count_withheld, read_image_set
from services.trainer.classifiers.job import open_pool, synthetic_plan
from services.trainer.classifiers.leakage import check_contamination
from services.trainer.classifiers.recipe import ClassifierRecipe
from services.trainer.classifiers.training_images import LabelledImages, labelled
from services.trainer.compute.training_run import NoCheckpoints, ProgressFn
from services.trainer.datasets.reading import (
    SplitImages,
    digests_of_split,
    image_home,
    load_images,
    load_members,
    usable_classes,
)
from services.trainer.datasets.resplitting import resplit, spare_digests
from services.trainer.evaluation.feature_space import resolve_feature_space
from services.trainer.jobs.checkpoints import PartCheckpoints
from services.trainer.studies.arm_images import Ready, first_of_each, joined, phantom_images
from services.trainer.studies.measures import measure_draw, measured_px
from services.trainer.studies.recipe import (
    BALANCED,
    REAL_ONLY,
    REAL_PLUS_FURTHER_REAL,
    REAL_PLUS_PHANTOMS,
    SYNTHETIC_ARMS,
    SYNTHETIC_ONLY,
    TRANSFER_ARMS,
    TRANSFER_REAL_ONLY,
    ZERO_SHOT,
    Cell,
    StudySettings,
    recipe_of,
)

if TYPE_CHECKING:
    from services.trainer.evaluation.metrics import Predictions
    from services.trainer.jobs.context import JobContext

ProgressOf = Callable[[str], ProgressFn]


class StudyDraw:
    """One split with everything that is trained on it."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        number: int,
        study: StudySettings,
        ctx: JobContext,
        work: Draft,
        progress_of: ProgressOf,
        side_by_side: bool,
    ) -> None:
        """Locks the split, unless it was locked before.

        Args:
            spec: The job's request.
            number: Which draw, from 0.
            study: The settings.
            ctx: The job's; its id becomes that of the draw's own artifacts.
            work: Where finished parts are kept.
            progress_of: Gives the progress function of a part by its description.
            side_by_side: Whether several classifiers are trained at a time: then none of them
                keeps checkpoints, as a job has a place for one.
        """
        self._number, self._study, self._work = number, study, work
        self._side_by_side = side_by_side
        self._progress_of = progress_of
        self._ctx = dataclasses.replace(
            ctx,
            job_id=f"{work.id}-draw{number}",
            progress=progress_of("adapter and synthetic images"),
        )
        source_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
        source = ctx.store.get_manifest(ctx.tenant, DATASETS, source_id)
        split = study.split(number, sorted(source["body"]["classes"]))
        self._dataset_id = self._ctx.job_id
        self._dataset = resplit(
            ctx.store, ctx.tenant, source_id, split, self._dataset_id, ctx.settings
        )
        self.class_ids = usable_classes(self._dataset)
        self._left_out: list[str] = []
        self._sides: dict[tuple[str, int], Any] = {}
        self._fresh: dict[tuple[str, bool], ImageClassifier] = {}
        self._drawing = threading.Lock()
        """Held by the classifier that fits the adapter and draws images for all others."""
        self._reading = threading.Lock()
        """Held while real images are read; never for long, as every classifier reads them."""
        self._making = threading.Lock()
        """Held by the classifier that makes a fresh one for those that start the same way."""

    def keep_classes(self, class_ids: Collection[str]) -> None:
        """Trains and tests these of its classes only; the adapter may have learned more."""
        self._left_out = [each for each in self.class_ids if each not in class_ids]
        self.class_ids = [each for each in self.class_ids if each in class_ids]

    def release(self) -> None:
        """Give up the memory of its images and fresh classifiers."""
        self._sides.clear()
        self._fresh.clear()

    def train(self, cell: Cell) -> Predictions:
        """Trains one classifier and gives its answers on the locked test images.

        May be called by several threads.
        """
        ctx = self._ctx
        what = f"{cell.model}, {cell.arm}" + (
            f" {cell.num_per_class}" if cell.num_per_class else ""
        )
        progress = self._progress_of(what)
        recipe = recipe_of(self._study, cell)
        config, _ = classifier_config(recipe, self.class_ids, ctx.settings)
        # Bases were found blind to the first draw's test images; every draw has others.
        check_contamination({}, recipe, self._dataset, ctx.store, ctx.tenant, ctx.settings)
        model = self._fresh_model(cell, recipe, config)
        if cell.arm == ZERO_SHOT:
            return predict(
                model.eval(), config, self._kept("test", config.image_size), ctx.settings, progress
            )
        real = labelled(self._kept("train", config.image_size), config.class_ids)
        with self._added(cell, config.image_size) as added:
            if cell.arm == SYNTHETIC_ONLY:
                real, added = added.images, None
            elif cell.arm == BALANCED:
                # Few classes need any, so they share batches with the real ones.
                real, added = joined(real, added.images), None
            done = train_and_test(
                model,
                recipe,
                config,
                real,
                added,
                lambda: self._kept("test", config.image_size),
                ctx.settings,
                progress,
                NoCheckpoints()
                if self._side_by_side
                else PartCheckpoints(ctx.checkpoints, cell.path),
            )
        return done.predictions

    def _fresh_model(
        self, cell: Cell, recipe: ClassifierRecipe, config: ClassifierConfig
    ) -> ImageClassifier:
        """All arms of a model start from the same one."""
        with self._making:
            if _start(cell) not in self._fresh:
                self._fresh[_start(cell)] = initial_model(recipe, config, self._ctx.settings)
            return copy.deepcopy(self._fresh[_start(cell)])

    @contextmanager
    def _added(self, cell: Cell, image_size: int) -> Iterator[Any]:
        """What the arm adds to the real images; None for real images alone."""
        if cell.arm in (REAL_ONLY, TRANSFER_REAL_ONLY):
            yield None
        elif cell.arm == REAL_PLUS_PHANTOMS:
            seed = self._study.seed + cell.draw
            yield Ready(phantom_images(self.class_ids, cell.num_per_class, seed, image_size))
        elif cell.arm == REAL_PLUS_FURTHER_REAL:
            yield Ready(self._further_real(cell.num_per_class, image_size))
        else:
            counts = dict.fromkeys(self.class_ids, cell.num_per_class)
            if cell.arm == BALANCED:
                sizes = {c: len(d) for c, d in digests_of_split(self._dataset, "train").items()}
                most = max(sizes[c] for c in self.class_ids)
                counts = {c: most - sizes[c] for c in self.class_ids}
            with self._drawing:
                self._fit_adapter()
                with open_pool(self._plan(), image_size, self._ctx) as pool:
                    pool.image_set()  # complete and committed
                    added = first_of_each(pool.wait_for(1.0), self._withheld(), counts)
            yield added

    def _further_real(self, most: int, image_size: int) -> LabelledImages:
        ctx, spare = self._ctx, spare_digests(self._dataset)
        members = {class_id: spare[class_id][:most] for class_id in self.class_ids}
        if not any(members.values()):  # the first draw had some; here patients fell otherwise
            problem = "has no real image that neither trains nor tests"
            remedy = "lower max_test_per_class, or leave out the arm real_plus_further_real"
            raise FailedPrecondition(f"draw {self._number + 1}", problem, remedy)
        found = load_members(
            ctx.store, ctx.tenant, self._dataset, members, image_size, ctx.settings
        )
        return labelled(found, tuple(self.class_ids))

    def _plan(self) -> SyntheticPlan:
        """The synthetic images of this draw, of which every arm takes the first ones."""
        spec = {
            "adapter": resource_names.build(ADAPTERS, self._ctx.artifact_id),
            "num_per_class": self._study.num_per_class[-1],
            "seed": self._study.seed + self._number,
            "sampler": {"preset": self._study.sampler_preset},
        }
        return synthetic_plan(spec, self.class_ids, self._ctx.store, self._ctx.tenant)

    def _withheld(self) -> dict[str, list[int]]:
        """Numbers, within their class, of the synthetic images that are near-duplicates.

        Raises:
            FailedPrecondition: If a synthetic image is one of the locked test images.
        """
        path = f"withheld/draw-{self._number:02d}.json"
        if not self._work.exists(path):
            self._work.write(path, json.dumps(self._inspect()).encode())
        found: dict[str, list[int]] = json.loads(self._work.read(path))
        return found

    def _inspect(self) -> dict[str, list[int]]:
        ctx, withheld = self._ctx, dict[str, list[int]]()
        locked = {
            each for side in digests_of_split(self._dataset, "test").values() for each in side
        }
        most = self._study.num_per_class[-1]
        images = read_image_set(ctx.store, ctx.tenant, self._plan().image_set_id, most)
        num_tested, known = 0, np.zeros(0, np.uint64)
        for class_id, files in images.items():
            withheld[class_id] = []
            for number, data in enumerate(files):
                num_tested += sha256_hex(data) in locked
                image = center_square(decode_image(data, f"synthetic image {number}"), 1.0, HASH_PX)
                if not len(known):
                    known = training_hashes(self._side("train", HASH_PX).images)
                if is_near_duplicate(image, known):
                    withheld[class_id].append(number)
        if num_tested:
            problem = f"{num_tested} of its locked test images are synthetic"
            raise FailedPrecondition(self._dataset["name"], problem, "upload real images only")
        return withheld

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
            scoped: Any = PartCheckpoints(ctx.checkpoints, name)
            fit_adapter.run(spec, dataclasses.replace(ctx, checkpoints=scoped))

    def _side(self, side: Any, size: int) -> Any:
        with self._reading:
            if (side, size) not in self._sides:
                ctx = self._ctx
                self._sides[side, size] = load_images(
                    ctx.store, ctx.tenant, self._dataset_id, side, size, ctx.settings
                )
            return self._sides[side, size]

    def _kept(self, side: Any, size: int) -> SplitImages:
        """A side without the classes that were left out."""
        whole = self._side(side, size)
        rows = [i for i, class_id in enumerate(whole.class_ids) if class_id in self.class_ids]
        return SplitImages(
            whole.images[rows],
            tuple(whole.class_ids[i] for i in rows),
            tuple(whole.digests[i] for i in rows),
        )

    def measure(self) -> dict[str, Any]:
        """Quality and nearness of its synthetic images, as ``measure_draw`` gives them.

        Rows of ``nearest_of_each`` begin with class id and number of the image within its class.
        """
        path = f"measures/draw-{self._number:02d}.json"
        if not self._work.exists(path):
            self._work.write(path, json.dumps(self._measure()).encode())
        found: dict[str, Any] = json.loads(self._work.read(path))
        return found

    def _measure(self) -> dict[str, Any]:
        ctx, withheld = self._ctx, self._withheld()
        most = self._study.num_per_class[-1]
        files = read_image_set(ctx.store, ctx.tenant, self._plan().image_set_id, most)
        used = [
            (class_id, number, decode_image(data, f"synthetic image {number}"))
            for class_id, members in files.items()
            for number, data in enumerate(members)
            if number not in withheld[class_id]
        ]
        source = resolve_feature_space(self._study.feature_space, ctx.settings.models_dir)
        px = measured_px(source, min(min(image.shape[:2]) for *_, image in used))
        progress = self._progress_of("image quality and privacy")
        found = measure_draw(
            source,
            self._side("train", px),
            self._kept("test", px),
            (
                np.stack([center_square(image, 1.0, px) for *_, image in used]),
                [class_id for class_id, *_ in used],
            ),
            self.class_ids,
            self._study.seed + self._number,
            ctx.settings.torch_device(),
            lambda done, total: progress("measuring", done, total, {}),
        )
        rows = zip(used, found["nearest_of_each"], strict=True)
        return found | {"nearest_of_each": [[*image[:2], *row] for image, row in rows]}

    def facts(self) -> dict[str, Any]:
        """What repeats this draw: names, digests, seeds."""
        ctx = self._ctx
        body = self._dataset["body"]
        sides = {side: digests_of_split(self._dataset, side) for side in ("train", "test")}
        models: dict[str, Any] = {}
        if set(self._study.arms) & set(SYNTHETIC_ARMS):
            adapter = ctx.store.get_manifest(ctx.tenant, ADAPTERS, ctx.artifact_id)
            models = {
                "adapter": adapter["name"],
                "adapter_files": adapter["files"],
                "base": adapter["base"],
                "base_revision": adapter["base_revision"],
                "image_set": resource_names.build(IMAGE_SETS, self._plan().image_set_id),
                "num_synthetic": self._study.num_per_class[-1] * len(self.class_ids),
                "num_redrawn": count_withheld(self._plan(), ctx.store, ctx.tenant),
                "num_withheld": sum(map(len, self._withheld().values())),
                "membership_inference": adapter["body"]["privacy"]["membership_inference"],
            }
        return models | {
            "dataset": self._dataset["name"],
            "images_of": resource_names.build(DATASETS, image_home(self._dataset)),
            "seed": self._dataset["seed"],
            "split_digest": body["split_digest"],
            "center_crop": body["center_crop"],
            "notices": body["notices"],
            "left_out": self._left_out,
            "num_train": {c: len(sides["train"][c]) for c in self.class_ids},
            "num_test": {c: len(sides["test"][c]) for c in self.class_ids},
            "train_digests": self._dataset["digests"],
        }


def _start(cell: Cell) -> tuple[str, bool]:
    """What decides about a classifier's first weights within a draw."""
    return cell.model, cell.arm in TRANSFER_ARMS
