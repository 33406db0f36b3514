"""``study``: whether synthesis helps, over replicates of one collection of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import (
    Base,
    ClipBase,
    Data,
    Keep,
    ReportFolder,
    SamplerPreset,
    Seed,
    parse_shots,
    refuse_without_effect,
    split_shots,
)
from cytosynth.cli.words import STUDY

if TYPE_CHECKING:
    from cytosynth.workflows.study import StudyOutcome

_ARMS_WITHOUT_ADAPTER = {
    "real_only",
    "real_plus_phantoms",
    "zero_shot",
    "real_plus_further_real",
    "transfer_real_only",
}
_RENAMED = {
    "--steps": "--classifier-steps",
    "--draws": "--replicates",
    "--models": "--architectures",
}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    command(app, panel="Whole pipeline", renamed=_RENAMED, words=STUDY)(study)


def study(
    data: Data,
    out: ReportFolder,
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
    replicates: Annotated[
        int | None,
        typer.Option(min=1, max=50, help="Splits of the cells, each with models of its own."),
    ] = None,
    architectures: Annotated[str, typer.Option(help="Classifiers: resnet18,clip.")] = "",
    arms: Annotated[str, typer.Option(help="What is compared: real_only,…")] = "",
    max_test_per_class: Annotated[
        int | None, typer.Option(min=0, help="Most test images per class; 0: all that remain.")
    ] = None,
    base: Base = "",
    clip_base: ClipBase = "",
    sampler_preset: SamplerPreset = "",
    loss_weight: Annotated[
        float | None, typer.Option(help="Weight of the synthetic part of the loss, 0 to 1.")
    ] = None,
    transfer_resnet_base: Annotated[
        str, typer.Option(help="ResNet base of the transfer arms: cyto-resnet.")
    ] = "",
    transfer_clip_base: Annotated[
        str, typer.Option(help="CLIP base of the transfer arms: cyto-clip.")
    ] = "",
    feature_space: Annotated[
        str, typer.Option(help="Features of image quality: a CLIP base or inception.")
    ] = "",
    hide_images: Annotated[
        bool, typer.Option("--hide-images", help="Leave real images out of the report.")
    ] = False,
    adapter_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of every adapter.")
    ] = None,
    classifier_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of every classifier.")
    ] = None,
    seed: Seed = 0,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "",
    keep_stack: Keep = False,
) -> None:
    """Measure whether synthesis helps, with intervals over replicates and images.

    Starts the services unless they are up. Killed at any moment, the same command again goes on
    and repeats no finished classifier; a folder takes one set of options.
    """
    from cytosynth.cli.stack_session import long_running
    from cytosynth.client import StudySettings, read_image_tree
    from cytosynth.workflows.progress import check_folder
    from cytosynth.workflows.study import StudyOptions, run_study

    amounts, wanted = _amounts(per_class), parse_shots(shots) if shots else None
    remedy = "leave it out, or add such an arm to --arms"
    if arms and not any("transfer" in arm for arm in _names(arms)):
        given = {
            "--transfer-resnet-base": transfer_resnet_base,
            "--transfer-clip-base": transfer_clip_base,
        }
        refuse_without_effect("without a transfer arm", given, remedy)
    if arms and set(_names(arms)) <= _ARMS_WITHOUT_ADAPTER:
        unused = {"--sampler-preset": sampler_preset, "--adapter-steps": adapter_steps}
        refuse_without_effect("without an arm with synthetic images", unused, remedy)
    tree = read_image_tree(data)  # a bad folder is refused before services start
    settings = StudySettings(
        preset=preset,
        models=_names(architectures),
        arms=_names(arms),
        num_per_class=amounts,
        num_draws=replicates,
        max_test_per_class=max_test_per_class,
        seed=seed,
        base=base,
        clip_base=clip_base,
        num_steps=classifier_steps,
        adapter_steps=adapter_steps,
        sampler_preset=sampler_preset,
        loss_weight=loss_weight,
        transfer_resnet_base=transfer_resnet_base,
        transfer_clip_base=transfer_clip_base,
        feature_space=feature_space,
        hide_images=hide_images,
        **(split_shots(wanted, tree.class_ids) if wanted is not None else {}),
    )
    options = StudyOptions(data, out, settings, title)
    check_folder(out, options)
    with long_running(keep_stack, quiet=caller().json) as (client, view, _):
        outcome = run_study(client, options, view)
    if caller().json:
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
    """Print macro-F1 of all arms, its difference to real_only, and the paths."""
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
    title = "One replicate (95 % interval over test images)"
    if num_draws > 1:
        title = f"Means of {num_draws} replicates (95 % interval over replicates and test images)"
    show.table(columns, rows, title=title, numeric=columns[2:])
    typer.echo(f"{show.duration(sum(outcome.seconds.values()))} in all. {show.RESEARCH_USE}")
    typer.echo(str(outcome.html_path))
    typer.echo(str(outcome.json_path))
