"""Carries out a study's parts, in one process or in several."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cytosynth import traces
from services.common.logs import configure_logging, tenant_var
from services.common.resource_names import JOBS
from services.common.store.artifacts import ArtifactStore
from services.trainer.compute.mixed_precision import plain_attention
from services.trainer.compute.parallel_training import (
    Link,
    compute_with_one_thread,
    run_in_processes,
)
from services.trainer.compute.training_run import NoCheckpoints, ProgressFn
from services.trainer.config import TrainerSettings
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.draining import Drained, DrainRequest
from services.trainer.studies.measures import measure_replicate
from services.trainer.studies.recipe import StudySettings
from services.trainer.studies.replicate import Replicate
from services.trainer.studies.synthetic_images import generate_images
from services.trainer.studies.trials import train_trial
from services.trainer.studies.workers.parts import StudyPart, SyntheticImagesPart, TrialPart
from services.trainer.studies.workers.progress import StudyProgress

#: Time between two reports while nothing is heard of the parts; a cancel is noticed then.
_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class StudyRun:
    """Inputs of every part of a study.

    Attributes:
        study: Settings of the study.
        work_id: Id of the folder where finished parts are kept.
        class_ids: Classes that every replicate can train and test.
    """

    study: StudySettings
    work_id: str
    class_ids: tuple[str, ...]


class StudyWorker:
    """Carries out parts in turn; caches the images of one replicate."""

    def __init__(self, run: StudyRun, ctx: JobContext) -> None:
        """Prepares for the parts of ``run``."""
        self._run, self._ctx = run, ctx
        self._work = ctx.store.new_draft(ctx.tenant, JOBS, run.work_id)
        self._replicate: Replicate | None = None

    def carry_out(self, part: StudyPart, progress: ProgressFn) -> None:
        """Carries a part out and keeps its result in the work folder."""
        replicate = self._open(part.replicate)
        # All along, so that no figure depends on which steps were done before a restart.
        with plain_attention(torch.device(self._ctx.settings.torch_device())):
            if isinstance(part, SyntheticImagesPart):
                generate_images(replicate, part.name, progress)
            elif isinstance(part, TrialPart):
                predictions = train_trial(replicate, part.trial, part.name, progress)
                self._work.write(part.trial.path, json.dumps(predictions.to_dict()).encode())
            else:
                measure_replicate(replicate, progress)

    def _open(self, number: int) -> Replicate:
        if self._replicate is None or self._replicate.number != number:
            run = self._run
            self._replicate = None  # its memory first
            self._replicate = Replicate(number, run.study, self._ctx, self._work, run.class_ids)
        return self._replicate


def carry_out_here(
    parts: Sequence[StudyPart], run: StudyRun, ctx: JobContext, overall: StudyProgress
) -> None:
    """Carries all parts out in their order, in this process."""
    worker = StudyWorker(run, ctx)
    for part in parts:

        def progress(
            phase: str, step: int, total: int, metrics: dict[str, float], part: StudyPart = part
        ) -> None:
            overall.note(part, phase, step, metrics)
            overall.report()

        worker.carry_out(part, progress)
        overall.finished(part)


@dataclass(frozen=True)
class _MissedCheckpoint:
    """Sent by a worker process that could not write a checkpoint."""


@dataclass(frozen=True)
class _Message:
    """Sent by a worker process; ``phase`` None: the part is finished."""

    part: StudyPart
    phase: str | None = None
    step: int = 0
    metrics: Mapping[str, float] | None = None


def carry_out_in_processes(
    parts: Sequence[StudyPart],
    run: StudyRun,
    ctx: JobContext,
    overall: StudyProgress,
    num_processes: int,
) -> None:
    """Carries all parts out side by side.

    Raises:
        Drained: If the job is to be released; every running part has saved its state.
        Unavailable: If a process was killed.
        Exception: What ``ctx.progress`` or a part raised.
    """

    reported = 0.0

    def supervise(messages: list[_Message | _MissedCheckpoint]) -> bool:
        nonlocal reported
        for message in messages:
            if isinstance(message, _MissedCheckpoint):
                ctx.count_missed_checkpoint()
            elif message.phase is None:
                overall.finished(message.part)
            else:
                overall.note(message.part, message.phase, message.step, dict(message.metrics or {}))
        # Asked before progress, which would raise before the parts have saved their states.
        drain = ctx.drain.checkpoint_wanted()
        if messages or time.monotonic() - reported > _REPORT_SECONDS:
            overall.report()
            reported = time.monotonic()
        return drain

    about = _About(
        ctx.job_id,
        ctx.tenant,
        ctx.settings,
        traces.request_id_var.get(),
        traces.traceparent_var.get(),
    )
    run_in_processes(parts, partial(begin_process, run, about), num_processes, supervise)


@dataclass(frozen=True)
class _About:
    """The job, for a process that works for it."""

    job_id: str
    tenant: str
    settings: TrainerSettings
    request_id: str
    traceparent: str


def begin_process(run: StudyRun, about: _About, link: Link) -> Callable[[StudyPart], None]:
    """Prepares a worker process; gives the function that carries a part out."""
    compute_with_one_thread()
    configure_logging()
    traces.start(about.settings.traces_endpoint, "job-runner")
    traces.request_id_var.set(about.request_id)
    traces.traceparent_var.set(about.traceparent)
    tenant_var.set(about.tenant)
    drain = DrainRequest()
    ctx = JobContext(
        about.job_id,
        about.tenant,
        ArtifactStore(about.settings.store_uri),
        about.settings,
        _no_progress,
        NoCheckpoints(),
        drain,
        lambda: link.send(_MissedCheckpoint()),
    )
    worker = StudyWorker(run, ctx)

    def carry_out(part: StudyPart) -> None:
        if link.drain_wanted():
            raise Drained

        def progress(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
            link.send(_Message(part, phase, step, metrics))
            link.check()
            if link.drain_wanted():
                drain.ask()
            drain.check()

        try:
            worker.carry_out(part, progress)
        finally:
            traces.flush()
        link.send(_Message(part))

    return carry_out


def _no_progress(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
    """Reports nothing: each part has a progress of its own."""
