"""``fit-adapter``, ``fit-classifier``, ``adapters`` and ``classifiers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import (
    CalibrationFolds,
    Key,
    NoWait,
    SamplerPreset,
    connected,
    interruptible,
    refuse_without_effect,
)
from cytosynth.cli.words import FIT_ADAPTER, FIT_CLASSIFIER

if TYPE_CHECKING:
    from cytosynth.client import JobHandle, SyntheticSettings

_PANEL = "Training"
_DEFAULT_PER_CLASS = 200

Dataset = Annotated[str, typer.Argument(help="datasets/…")]
Preset = Annotated[str, typer.Option(help="cpu or paper; default: the server's.")]
OptionalSeed = Annotated[int | None, typer.Option(min=0, help="Seed.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    renamed = {"--steps": "--adapter-steps", "--per-class": "--separate"}
    command(app, "fit-adapter", panel=_PANEL, renamed=renamed, words=FIT_ADAPTER)(fit_adapter)
    renamed = {"--steps": "--classifier-steps", "--synthetic-per-class": "--per-class"}
    command(app, "fit-classifier", panel=_PANEL, renamed=renamed, words=FIT_CLASSIFIER)(
        fit_classifier
    )
    command(app, panel=_PANEL)(adapters)
    command(app, panel=_PANEL)(classifiers)


def fit_adapter(
    dataset: Dataset,
    base: Annotated[str, typer.Option(help="Base diffusion model.")] = "",
    preset: Preset = "",
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha.")] = None,
    adapter_steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    learning_rate: LearningRate = None,
    separate: Annotated[
        bool | None, typer.Option("--separate/--shared", help="One adapter per class, or one.")
    ] = None,
    seed: OptionalSeed = None,
    idempotency_key: Key = None,
    no_wait: NoWait = False,
) -> None:
    """Train a LoRA adapter on the few-shot images of a dataset."""
    from cytosynth.client import AdapterSettings

    settings = AdapterSettings(
        preset=preset,
        rank=rank,
        alpha=alpha,
        num_steps=adapter_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        per_class=separate,
        seed=seed,
    )
    with connected() as client:
        job = client.fit_adapter(dataset, settings, base=base, idempotency_key=idempotency_key)
        follow(job, no_wait)


def fit_classifier(
    dataset: Dataset,
    architecture: Annotated[str, typer.Option(help="resnet18, resnet50 or clip.")] = "resnet18",
    adapter: Annotated[
        str, typer.Option(help="adapters/… whose synthetic cells join the training set.")
    ] = "",
    per_class: Annotated[
        int | None,
        typer.Option(
            help=f"Synthetic images per class, with --adapter; default: {_DEFAULT_PER_CLASS}."
        ),
    ] = None,
    loss_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the synthetic part of the loss, 0 to 1, with --adapter."),
    ] = None,
    sampler_preset: SamplerPreset = "",
    preset: Preset = "",
    clip_base: Annotated[str, typer.Option(help="CLIP base; clip only.")] = "",
    resnet_base: Annotated[
        str, typer.Option(help="ResNet base to start from; default: from scratch.")
    ] = "",
    classifier_steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Real images per step.")] = None,
    learning_rate: LearningRate = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Width and height of the input, pixels.")
    ] = None,
    calibration_folds: CalibrationFolds = None,
    seed: OptionalSeed = None,
    idempotency_key: Key = None,
    no_wait: NoWait = False,
) -> None:
    """Train a classifier on real and, with --adapter, synthetic images."""
    from cytosynth.client import ClassifierSettings

    synthetic = _synthetic(adapter, per_class, seed or 0, sampler_preset, loss_weight)
    if architecture == "clip":
        remedy = "leave it out, or choose a ResNet with --architecture"
        refuse_without_effect("on CLIP", {"--resnet-base": resnet_base}, remedy)
    else:
        remedy = "leave it out, or add --architecture clip"
        refuse_without_effect("on a ResNet", {"--clip-base": clip_base}, remedy)
    settings = ClassifierSettings(
        architecture=architecture,
        preset=preset,
        clip_base=clip_base,
        resnet_base=resnet_base,
        num_steps=classifier_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        image_size=image_size,
        seed=seed,
        num_calibration_folds=calibration_folds,
    )
    with connected() as client:
        job = client.fit_classifier(
            dataset, settings, synthetic=synthetic, idempotency_key=idempotency_key
        )
        follow(job, no_wait)


def adapters() -> None:
    """List adapters."""
    with connected() as client:
        found = client.list_adapters()
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (item.name, item.base, item.dataset, len(item.class_ids), show.when(item.create_time))
        for item in found
    ]
    show.table(("name", "base", "dataset", "classes", "created"), rows, numeric=("classes",))


def classifiers() -> None:
    """List classifiers with the data they were trained on."""
    with connected() as client:
        found = client.list_classifiers()
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (
            item.name,
            item.settings.get("architecture", ""),
            item.dataset,
            item.image_set or "real images alone",
            show.figures(item.metrics),
        )
        for item in found
    ]
    show.table(("name", "architecture", "dataset", "synthetic", "test figures"), rows)


def follow(job: JobHandle, no_wait: bool) -> None:
    """Follow a job and print its result, or print its name."""
    as_json = caller().json
    if no_wait:
        show.as_json(job.job) if as_json else typer.echo(job.name)
        return
    consequence = (
        f"{job.name} goes on; `cytosynth watch {job.name}` follows it, "
        f"`cytosynth cancel {job.name}` ends it"
    )
    with interruptible(consequence), show.meter(quiet=as_json) as meter:
        done = job.wait(meter.job)
    show.as_json(done) if as_json else typer.echo(done.result)


def _synthetic(
    adapter: str,
    per_class: int | None,
    seed: int,
    sampler_preset: str,
    loss_weight: float | None,
) -> SyntheticSettings | None:
    from cytosynth.client import SamplerSettings, SyntheticSettings

    if adapter:
        return SyntheticSettings(
            adapter=adapter,
            num_per_class=_DEFAULT_PER_CLASS if per_class is None else per_class,
            seed=seed,
            sampler=SamplerSettings(sampler_preset),
            loss_weight=loss_weight,
        )
    given = {
        "--per-class": per_class,
        "--loss-weight": loss_weight,
        "--sampler-preset": sampler_preset,
    }
    remedy = "add --adapter adapters/… (`cytosynth adapters` lists them), or leave it out"
    refuse_without_effect("without --adapter", given, remedy)
    return None
