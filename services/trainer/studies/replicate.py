"""One replicate of a study: its locked split and the split's images."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal

from services.common import resource_names
from services.common.resource_names import DATASETS
from services.common.store.artifacts import Draft
from services.trainer.compute.training_run import ProgressFn
from services.trainer.datasets.reading import SplitImages, load_images, usable_classes
from services.trainer.datasets.resplitting import resplit
from services.trainer.jobs.context import JobContext
from services.trainer.studies.recipe import StudySettings
from services.trainer.studies.workers.part_checkpoints import PartCheckpoints


class Replicate:
    """One split of the dataset, with everything that is trained on it.

    Attributes:
        number: Which replicate, from 0.
        study: Settings of the study.
        ctx: The job's context; its id is that of the replicate's own artifacts.
        work: Where finished parts of the study are kept.
        dataset: Manifest of the split.
        class_ids: Classes that are trained and tested.
        left_out: Usable classes that are not, as other replicates lack them.
    """

    def __init__(
        self,
        number: int,
        study: StudySettings,
        ctx: JobContext,
        work: Draft,
        class_ids: Collection[str] | None = None,
    ) -> None:
        """Opens a replicate whose split is locked.

        Args:
            number: Which replicate, from 0.
            study: Settings of the study.
            ctx: The job's context.
            work: Where finished parts of the study are kept.
            class_ids: Classes that every replicate can train and test; None: all.

        Raises:
            NotFound: If its split is not locked.
        """
        self.number, self.study, self.work = number, study, work
        self.ctx = dataclasses.replace(ctx, job_id=split_id(work, number))
        self.dataset = ctx.store.get_manifest(ctx.tenant, DATASETS, self.ctx.job_id)
        usable = usable_classes(self.dataset)
        self.class_ids = [each for each in usable if class_ids is None or each in class_ids]
        self.left_out = [each for each in usable if each not in self.class_ids]
        self._images: dict[tuple[str, int], SplitImages] = {}

    @property
    def seed(self) -> int:
        """Seed of everything that is random in this replicate."""
        return self.study.seed + self.number

    def images(self, split: Literal["train", "test"], size: int) -> SplitImages:
        """Real images of a split, squares of ``size`` pixels; cached."""
        if (split, size) not in self._images:
            ctx = self.ctx
            self._images[split, size] = load_images(
                ctx.store, ctx.tenant, ctx.job_id, split, size, ctx.settings
            )
        return self._images[split, size]

    def kept_images(self, split: Literal["train", "test"], size: int) -> SplitImages:
        """Real images of a split without the classes left out."""
        whole = self.images(split, size)
        rows = [i for i, class_id in enumerate(whole.class_ids) if class_id in self.class_ids]
        return SplitImages(
            whole.images[rows],
            tuple(whole.class_ids[i] for i in rows),
            tuple(whole.digests[i] for i in rows),
        )

    def with_progress(self, progress: ProgressFn) -> JobContext:
        """The context of one part of this replicate."""
        return dataclasses.replace(self.ctx, progress=progress)

    def checkpoints(self, part: str) -> PartCheckpoints:
        """Checkpoints of one part of this replicate."""
        ctx = self.ctx
        seconds, missed = ctx.settings.checkpoint_seconds, ctx.count_missed_checkpoint
        return PartCheckpoints(self.work, part, seconds, ctx.drain, missed)


def lock_split(
    dataset: str, number: int, study: StudySettings, ctx: JobContext, work: Draft
) -> None:
    """Makes and stores the split of a replicate, unless it is stored.

    Raises:
        NotFound: If the dataset does not exist.
        InvalidArgument: If the split cannot be made.
    """
    source_id = resource_names.parse(DATASETS, dataset, "dataset")
    source = ctx.store.get_manifest(ctx.tenant, DATASETS, source_id)
    split = study.split(number, sorted(source["body"]["classes"]))
    resplit(ctx.store, ctx.tenant, source_id, split, split_id(work, number), ctx.settings)


def split_id(work: Draft, number: int) -> str:
    """Id of the split of a replicate, and of its adapter."""
    return f"{work.id}-replicate{number}"
