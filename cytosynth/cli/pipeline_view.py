"""The pipeline in a terminal: lines of phases, table of arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from cytosynth.cli import show
from cytosynth.client import Dataset, Job
from cytosynth.workflows.pipeline import ARMS, PipelineOutcome
from cytosynth.workflows.progress import Listener


class PhaseView(Listener):
    """Prints a line per finished phase; moves the progress bar meanwhile."""

    def __init__(self, meter: show.Meter) -> None:
        self._meter = meter
        self.phase = ""
        """The phase that runs, as the workflow calls it."""
        self.job_name = ""
        """The job that the phase waits for; empty if there is none."""
        self._count = meter.counted("")

    def begin(self, phase: str) -> None:
        self.phase, self.job_name = phase, ""
        self._meter.update(readable(phase))
        self._count = self._meter.counted(readable(phase))

    def count(self, done: int, total: int) -> None:
        self._count(done, total)

    def job(self, job: Job) -> None:
        self.job_name = "" if job.done else job.name
        self._meter.job(job, readable(self.phase))

    def notices(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            self._meter.say(f"note: {text}")

    def dataset(self, dataset: Dataset) -> None:
        self.notices(dataset.notices)
        kept = [item for item in dataset.classes if not item.left_out_reason]
        classes = ", ".join(f"{item.class_id} {item.num_train}/{item.num_test}" for item in kept)
        self._meter.say(f"{dataset.name}: training/test cells: {classes}")

    def end(self, phase: str, seconds: float) -> None:
        self._meter.say(f"{readable(phase):<36} {show.duration(seconds):>8}")


def readable(phase: str) -> str:
    """``fit_clip_real_only`` as ``fit clip real_only``."""
    return phase.replace("fit_", "fit ", 1).replace("_real", " real", 1)


def show_outcome(outcome: PipelineOutcome) -> None:
    """Print macro-F1 of the arms, their difference, and the paths."""
    rows = [
        (
            model,
            *(_figure(arms.get(arm, {})) for arm in ARMS),
            _difference(outcome.report, model),
        )
        for model, arms in outcome.report["arms"].items()
    ]
    columns = ("model", "real only", "real + synthetic", "difference")
    num_synthetic = outcome.report.get("num_synthetic", "?")
    title = f"Macro-F1 on the locked test set (95 % interval), {num_synthetic} synthetic cells"
    show.table(columns, rows, title=title, numeric=columns[1:])
    total = sum(outcome.seconds.values())
    typer.echo(f"{show.duration(total)} in all. {show.RESEARCH_USE}")
    typer.echo(str(outcome.html_path))
    typer.echo(str(outcome.json_path))


def _figure(arm: Mapping[str, Any]) -> str:
    if "macro_f1" not in arm:
        return "-"
    return f"{arm['macro_f1']:.3f}{_interval(arm.get('intervals', {}).get('macro_f1'))}"


def _difference(report: Mapping[str, Any], model: str) -> str:
    paired = report.get("paired_differences", {}).get(model, {})
    change = paired.get(f"{ARMS[1]}_minus_{ARMS[0]}", {}).get("macro_f1")
    if change:
        return f"{change['difference']:+.3f}{_interval(change['interval'], sign='+')}"
    before, after = (report["arms"][model].get(arm, {}).get("macro_f1") for arm in ARMS)
    return "-" if before is None or after is None else f"{after - before:+.3f}"


def _interval(bounds: Any, sign: str = "") -> str:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return ""
    return f" [{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]"
