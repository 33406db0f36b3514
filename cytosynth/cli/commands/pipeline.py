"""``run`` and ``demo``: few-shot images in, a report out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import (
    Base,
    CalibrationFolds,
    ClipBase,
    Data,
    Keep,
    MaxTest,
    ReportFolder,
    SamplerPreset,
    Seed,
    parse_shots,
    split_shots,
)
from cytosynth.cli.words import RUN, RUN_FIT_ADAPTER, RUN_FIT_CLASSIFIER, in_words

if TYPE_CHECKING:
    from cytosynth.client import Client
    from cytosynth.workflows.pipeline import PipelineOptions

_PANEL = "Whole pipeline"
_RENAMED = {"--steps": "--classifier-steps"}

Repeats = Annotated[
    int, typer.Option(min=1, max=20, help="Classifiers per arm, with seeds one apart.")
]
Preset = Annotated[str, typer.Option(help="cpu (small models) or paper (GPUs).")]
AdapterSteps = Annotated[
    int, typer.Option(min=0, help="Optimizer steps of the adapter; 0: the preset's.")
]
ClassifierSteps = Annotated[
    int | None,
    typer.Option(min=0, help="Optimizer steps of every classifier; 0: the preset's."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel=_PANEL, renamed=_RENAMED, words=RUN)(run)
    command(app, panel=_PANEL, renamed=_RENAMED, words=RUN)(demo)


def run(
    data: Data,
    out: ReportFolder,
    shots: Annotated[
        str,
        typer.Option(
            help="Training images per class: 16, or 16,12,8 by class in alphabetical order, "
            "or class=16,class=12."
        ),
    ] = "16",
    per_class: Annotated[int, typer.Option(min=1, help="Synthetic images per class.")] = 200,
    base: Base = "",
    clip_base: ClipBase = "",
    max_test_per_class: MaxTest = 0,
    preset: Preset = "cpu",
    sampler_preset: SamplerPreset = "",
    adapter_steps: AdapterSteps = 0,
    classifier_steps: ClassifierSteps = None,
    calibration_folds: CalibrationFolds = None,
    seed: Seed = 0,
    repeats: Repeats = 1,
    keep_stack: Keep = False,
) -> None:
    """Few-shot images in; adapter, synthetic cells, classifiers and a report out.

    Compares ResNet and CLIP trained on real cells alone with the same on real and synthetic
    cells, on test cells that nothing was trained on. Starts the services unless they are up.
    Interrupted, the same command again goes on from there; a folder takes one set of options.
    """
    from cytosynth.client import read_image_tree
    from cytosynth.workflows.pipeline import PipelineOptions

    _check_preset(preset)
    split = split_shots(parse_shots(shots), read_image_tree(data).class_ids)
    if any(number < 1 for number in (split.get("class_shots") or {1: split.get("shots")}).values()):
        raise typer.BadParameter("at least 1 image per class", param_hint="--shots")
    options = PipelineOptions(
        data=data,
        out=out,
        **split,
        num_per_class=per_class,
        base=base,
        clip_base=clip_base,
        max_test_per_class=max_test_per_class,
        preset=preset,
        sampler_preset=sampler_preset,
        adapter_steps=adapter_steps,
        num_steps=classifier_steps or 0,
        calibration_folds=-1 if calibration_folds is None else calibration_folds,
        seed=seed,
        num_runs=repeats,
    )
    _run(options, keep_stack)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for hospital and report.")] = Path(
        "out/demo"
    ),
    per_class: Annotated[
        int | None, typer.Option(min=1, help="Synthetic images per class.")
    ] = None,
    base: Base = "",
    clip_base: ClipBase = "",
    preset: Preset = "cpu",
    sampler_preset: SamplerPreset = "",
    adapter_steps: AdapterSteps = 0,
    classifier_steps: ClassifierSteps = None,
    seed: Seed = 0,
    repeats: Repeats = 1,
    keep_stack: Keep = False,
) -> None:
    """Run the whole pipeline on phantoms: no data, network or GPU needed."""
    from cytosynth.stack import stack as local_stack

    if caller().address is None:
        local_stack.check_installed()
    from cytosynth.workflows.demo import demo_options, write_cells

    _check_preset(preset)
    options = demo_options(out, preset=preset, seed=seed)
    options = dataclasses.replace(
        options,
        base=base,
        clip_base=clip_base,
        num_runs=repeats,
        sampler_preset=sampler_preset,
        adapter_steps=adapter_steps,
        num_per_class=per_class or options.num_per_class,
        num_steps=options.num_steps if classifier_steps is None else classifier_steps,
    )
    if not caller().json:
        typer.echo(
            f"{options.data}: a hospital of phantom cells, {len(options.class_shots)} classes"
        )
    _run(options, keep_stack, write_cells)


def _check_preset(preset: str) -> None:
    from cytosynth.workflows.pipeline import MODELS

    if preset not in MODELS:
        raise typer.BadParameter(" or ".join(MODELS), param_hint="--preset")


def _run(
    options: PipelineOptions,
    keep_stack: bool,
    picture: Callable[[Client, PipelineOptions, str], Path] | None = None,
) -> None:
    """Runs the pipeline and shows its outcome.

    ``picture`` writes a picture with the adapter.
    """
    from cytosynth.cli.pipeline_view import show_outcome
    from cytosynth.cli.stack_session import long_running
    from cytosynth.client import CytosynthError
    from cytosynth.workflows.pipeline import run_pipeline
    from cytosynth.workflows.progress import check_folder

    check_folder(options.out, options)
    with long_running(keep_stack, quiet=caller().json) as (client, view, start_seconds):
        try:
            outcome = run_pipeline(client, options, view, start_seconds)
            pictured = picture and picture(client, options, outcome.adapter)
        except CytosynthError as error:
            fits_adapter = view.phase == "fit_adapter"
            raise in_words(error, RUN_FIT_ADAPTER if fits_adapter else RUN_FIT_CLASSIFIER) from None
    if caller().json:
        show.as_json(outcome)
    else:
        show_outcome(outcome)
        if pictured:
            typer.echo(str(pictured))
