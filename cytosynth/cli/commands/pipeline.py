"""``run``, ``demo`` and ``phantoms``: the whole pipeline, and cells to run it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.commands.training import MaxTest, Seed
from cytosynth.cli.options import (
    Address,
    AsJson,
    interruptible,
    parse_shots,
    resolve,
    split_shots,
)

if TYPE_CHECKING:
    from cytosynth.cli.pipeline_view import PhaseView
    from cytosynth.client import Client
    from cytosynth.workflows.pipeline import PipelineOptions

_PANEL = "Whole pipeline"
Keep = Annotated[
    bool, typer.Option("--keep-stack", help="Leave services running that this command started.")
]
Repeats = Annotated[
    int, typer.Option(min=1, max=20, help="Classifiers per arm, with seeds one apart.")
]
Preset = Annotated[str, typer.Option(help="cpu (small models) or paper (GPUs).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=_PANEL)(run)
    app.command(rich_help_panel=_PANEL)(demo)
    app.command(rich_help_panel=_PANEL)(phantoms)


def run(
    data: Annotated[Path, typer.Option("--data", help="ImageFolder tree: <class>/<image>.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.json.")],
    shots: Annotated[
        str,
        typer.Option(
            help="Training images per class: 16, or 16,12,8 by class in alphabetical order, "
            "or class=16,class=12."
        ),
    ] = "16",
    per_class: Annotated[int, typer.Option(min=1, help="Synthetic images per class.")] = 200,
    base: Annotated[str, typer.Option(help="Base diffusion model.")] = "",
    clip_base: Annotated[str, typer.Option(help="CLIP base.")] = "",
    max_test_per_class: MaxTest = 0,
    preset: Preset = "cpu",
    steps: Annotated[
        int, typer.Option(min=0, help="Optimizer steps of every classifier; 0: the preset's.")
    ] = 0,
    seed: Seed = 0,
    repeats: Repeats = 1,
    address: Address = None,
    keep_stack: Keep = False,
    json: AsJson = False,
) -> None:
    """Few-shot images in; adapter, synthetic cells, classifiers and a report out.

    Compares ResNet and CLIP trained on real cells alone with the same on real and synthetic
    cells, on test cells that nothing was trained on. Starts the services unless they are up.
    Interrupted, the same command again goes on from there.
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
        num_steps=steps,
        seed=seed,
        num_runs=repeats,
    )
    _run(options, address, keep_stack, json)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for hospital and report.")] = Path(
        "out/demo"
    ),
    per_class: Annotated[
        int | None, typer.Option(min=1, help="Synthetic images per class.")
    ] = None,
    base: Annotated[str, typer.Option(help="Base diffusion model.")] = "",
    clip_base: Annotated[str, typer.Option(help="CLIP base.")] = "",
    preset: Preset = "cpu",
    seed: Seed = 0,
    repeats: Repeats = 1,
    address: Address = None,
    keep_stack: Keep = False,
    json: AsJson = False,
) -> None:
    """Run the whole pipeline on a phantom hospital: no data, network or GPU needed."""
    from cytosynth.stack import stack as local_stack

    if address is None:
        local_stack.check_installed()
    from cytosynth.workflows.demo import demo_options

    _check_preset(preset)
    options = demo_options(out, preset=preset, seed=seed)
    options = dataclasses.replace(options, base=base, clip_base=clip_base, num_runs=repeats)
    if per_class:
        options = dataclasses.replace(options, num_per_class=per_class)
    if not json:
        typer.echo(
            f"{options.data}: a hospital of phantom cells, {len(options.class_shots)} classes"
        )
    _run(options, address, keep_stack, json)


def phantoms(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must be new or empty.")],
    per_class: Annotated[int, typer.Option(min=1, help="Images per class.")] = 40,
    classes: Annotated[
        str, typer.Option(help="Class ids, separated by commas; default: all 15.")
    ] = "",
    laboratory: Annotated[
        str, typer.Option(help="demo, reference, or random (one that the seed draws).")
    ] = "demo",
    seed: Seed = 0,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Image side, pixels.")] = 64,
) -> None:
    """Write phantom cells as an ImageFolder tree with labels.csv."""
    import numpy as np

    from cytosynth.phantoms import (
        CELL_TYPES,
        DEMO_HOSPITAL,
        REFERENCE,
        sample_laboratory,
        write_image_folder,
    )

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} is not empty", param_hint="--out")
    wanted = [part.strip() for part in classes.split(",") if part.strip()] or list(CELL_TYPES)
    unknown = [class_id for class_id in wanted if class_id not in CELL_TYPES]
    if unknown:
        raise typer.BadParameter(
            f"no phantom of {unknown[0]!r}; there are {', '.join(CELL_TYPES)}",
            param_hint="--classes",
        )
    match laboratory:
        case "demo":
            chosen = DEMO_HOSPITAL
        case "reference":
            chosen = REFERENCE
        case "random":
            chosen = sample_laboratory(np.random.default_rng(seed))
        case _:
            raise typer.BadParameter("demo, reference or random", param_hint="--laboratory")
    write_image_folder(out, chosen, dict.fromkeys(wanted, per_class), seed, size)
    typer.echo(f"{out}: {per_class * len(wanted)} phantom cells of {len(wanted)} classes")


def _check_preset(preset: str) -> None:
    from cytosynth.workflows.pipeline import MODELS

    if preset not in MODELS:
        raise typer.BadParameter(" or ".join(MODELS), param_hint="--preset")


@contextmanager
def long_running(
    address: str | None, keep_stack: bool, quiet: bool
) -> Iterator[tuple[Client, PhaseView, float]]:
    """Services for a long command: client, view of its phases, seconds of the start."""
    from cytosynth.cli.pipeline_view import PhaseView
    from cytosynth.cli.stack_session import services
    from cytosynth.client import DEFAULT_ADDRESS

    resolve(
        address or DEFAULT_ADDRESS
    )  # A bad address or certificate is told before anything starts.
    with (
        interruptible("the same command again goes on from here"),
        show.meter(quiet=quiet) as meter,
        services(address, keep_stack, meter) as (client, start_seconds),
    ):
        view = PhaseView(meter)
        if start_seconds:
            view.end("start_services", start_seconds)
        yield client, view, start_seconds


def _run(options: PipelineOptions, address: str | None, keep_stack: bool, json: bool) -> None:
    from cytosynth.cli.pipeline_view import show_outcome
    from cytosynth.workflows.pipeline import run_pipeline

    with long_running(address, keep_stack, json) as (client, view, start_seconds):
        outcome = run_pipeline(client, options, view, start_seconds)
    if json:
        show.as_json(outcome)
    else:
        show_outcome(outcome)
