"""``study``: does synthesis help, over several draws of one collection of cells?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.commands.pipeline import Keep, long_running
from cytosynth.cli.commands.training import Seed
from cytosynth.cli.options import (
    Address,
    AsJson,
    parse_shots,
    split_shots,
)

if TYPE_CHECKING:
    from cytosynth.workflows.study import StudyOutcome


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command(rich_help_panel="Whole pipeline")(study)


def study(
    data: Annotated[Path, typer.Option("--data", help="ImageFolder tree: <class>/<image>.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.json.")],
    preset: Annotated[
        str,
        typer.Option(
            help="evidence (bases that never saw a real cell), informed (bases that know another "
            "laboratory's) or paper (GPUs)."
        ),
    ] = "",
    shots: Annotated[
        str,
        typer.Option(
            help="Training images per class: 16, or 16,12,8 by class in alphabetical order, "
            "or class=16,class=12. Default: the preset's."
        ),
    ] = "",
    per_class: Annotated[
        str, typer.Option(help="Synthetic images per class, ascending: 50,200.")
    ] = "",
    draws: Annotated[int | None, typer.Option(min=1, max=50, help="Splits of the cells.")] = None,
    models: Annotated[str, typer.Option(help="Classifiers: resnet18,clip.")] = "",
    arms: Annotated[str, typer.Option(help="What is compared: real_only,…")] = "",
    max_test_per_class: Annotated[
        int | None, typer.Option(min=0, help="Most test images per class; 0: all that remain.")
    ] = None,
    base: Annotated[str, typer.Option(help="Base diffusion model.")] = "",
    clip_base: Annotated[str, typer.Option(help="CLIP base.")] = "",
    sampler_preset: Annotated[str, typer.Option(help="draft, fast, balanced or paper.")] = "",
    transfer_resnet_base: Annotated[
        str, typer.Option(help="ResNet base of the transfer arms: cyto-resnet.")
    ] = "",
    transfer_clip_base: Annotated[
        str, typer.Option(help="CLIP base of the transfer arms: cyto-clip.")
    ] = "",
    feature_space: Annotated[
        str, typer.Option(help="Of image quality: a CLIP base or inception.")
    ] = "",
    hide_images: Annotated[
        bool, typer.Option("--hide-images", help="Leave real images out of the report.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of every classifier.")
    ] = None,
    seed: Seed = 0,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "",
    address: Address = None,
    keep_stack: Keep = False,
    json: AsJson = False,
) -> None:
    """Measure whether synthesis helps: several draws, all arms, intervals over draws and images.

    Starts the services unless they are up. Killed at any moment, the same command again goes on
    and repeats no finished classifier.
    """
    from cytosynth.client import StudySettings, read_image_tree
    from cytosynth.workflows.study import StudyOptions, run_study

    amounts, wanted = _amounts(per_class), parse_shots(shots) if shots else None
    tree = read_image_tree(data)  # what is wrong with the folder is said before services start
    settings = StudySettings(
        preset=preset,
        models=_names(models),
        arms=_names(arms),
        num_per_class=amounts,
        num_draws=draws,
        max_test_per_class=max_test_per_class,
        seed=seed,
        base=base,
        clip_base=clip_base,
        num_steps=steps,
        sampler_preset=sampler_preset,
        transfer_resnet_base=transfer_resnet_base,
        transfer_clip_base=transfer_clip_base,
        feature_space=feature_space,
        hide_images=hide_images,
        **(split_shots(wanted, tree.class_ids) if wanted is not None else {}),
    )
    options = StudyOptions(data, out, settings, title)
    with long_running(address, keep_stack, json) as (client, view, _):
        outcome = run_study(client, options, view)
    if json:
        show.as_json(outcome)
    else:
        _show(outcome)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _amounts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise typer.BadParameter("numbers, for example 50,200", param_hint="--per-class") from None


def _show(outcome: StudyOutcome) -> None:
    """Print all arms with macro-F1 and its difference to real images alone, and the paths."""
    rows = []
    for model, by_arm in outcome.report["arms"].items():
        for arm, figures in by_arm.items():
            low, high = figures["intervals"]["macro_f1"]
            found = outcome.report["differences"][model].get(arm, {}).get("macro_f1")
            change = (
                f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]" if found else ""
            )
            rows.append((model, arm, f"{figures['macro_f1']:.3f} [{low:.3f}, {high:.3f}]", change))
    columns = ("model", "arm", "macro-F1", "against real only")
    num_draws = len(outcome.report["draws"])
    title = "One draw (95 % interval over test images)"
    if num_draws > 1:
        title = f"Means of {num_draws} draws (95 % interval over draws and test images)"
    show.table(columns, rows, title=title, numeric=columns[2:])
    typer.echo(f"{show.duration(sum(outcome.seconds.values()))} in all. {show.RESEARCH_USE}")
    typer.echo(str(outcome.html_path))
    typer.echo(str(outcome.json_path))
