"""``upload``, ``fit-adapter``, ``fit-classifier``, ``report`` and what they made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.options import (
    Address,
    AsJson,
    Key,
    NoWait,
    connected,
    interruptible,
    parse_shots,
    split_shots,
)

if TYPE_CHECKING:
    from cytosynth.client import Dataset, JobHandle

_PANEL = "Training"

Shots = Annotated[
    str,
    typer.Option(
        help="Training images per class: 16, or 16,12,8 by class in alphabetical order, "
        "or class=16,class=12; 0: all but the test share."
    ),
]
MaxTest = Annotated[
    int, typer.Option(min=0, help="Most test images per class; 0: all that remain.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed.")]
Crop = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of the shorter side to keep; 0: estimated."),
]
Preset = Annotated[str, typer.Option(help="cpu or paper; default: the server's.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=_PANEL)(upload)
    app.command("import", rich_help_panel=_PANEL)(import_)
    app.command("fit-adapter", rich_help_panel=_PANEL)(fit_adapter)
    app.command("fit-classifier", rich_help_panel=_PANEL)(fit_classifier)
    app.command(rich_help_panel=_PANEL)(report)
    app.command(rich_help_panel=_PANEL)(datasets)
    app.command(rich_help_panel=_PANEL)(adapters)
    app.command(rich_help_panel=_PANEL)(classifiers)
    app.command(rich_help_panel=_PANEL)(delete)


def upload(
    folder: Annotated[Path, typer.Argument(help="ImageFolder tree: <class>/<image>.")],
    shots: Shots = "0",
    max_test_per_class: MaxTest = 0,
    seed: Seed = 0,
    center_crop: Crop = 0.0,
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
    idempotency_key: Key = None,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Upload a folder of cells and lock its split into training and test images."""
    from cytosynth.client import SplitSettings, read_image_tree

    wanted = parse_shots(shots)
    tree = read_image_tree(folder)
    split = SplitSettings(
        **split_shots(wanted, tree.class_ids), max_test_per_class=max_test_per_class, seed=seed
    )
    with (
        interruptible("nothing was kept"),
        connected(address) as client,
        show.meter(quiet=json) as meter,
    ):
        dataset = client.upload_dataset(
            tree,
            split=split,
            center_crop=center_crop,
            display_name=name or folder.resolve().name[:200],
            idempotency_key=idempotency_key,
            on_progress=meter.counted("uploading"),
        )
    _show_dataset(dataset, json)


def import_(
    uri: Annotated[str, typer.Argument(help="Folder that the server reads, for example s3://…")],
    shots: Shots = "0",
    max_test_per_class: MaxTest = 0,
    seed: Seed = 0,
    center_crop: Crop = 0.0,
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
    idempotency_key: Key = None,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Make a dataset from a folder at a URI that the server may read."""
    from cytosynth.client import SplitSettings

    wanted = parse_shots(shots)
    if isinstance(wanted, list):
        raise typer.BadParameter("name the classes: class=16,class=12", param_hint="--shots")
    split = SplitSettings(
        shots=wanted if isinstance(wanted, int) else 0,
        class_shots=wanted if isinstance(wanted, dict) else {},
        max_test_per_class=max_test_per_class,
        seed=seed,
    )
    with connected(address) as client:
        dataset = client.import_dataset(
            uri,
            split=split,
            center_crop=center_crop,
            display_name=name,
            idempotency_key=idempotency_key,
        )
    _show_dataset(dataset, json)


def fit_adapter(
    dataset: Annotated[str, typer.Argument(help="datasets/…")],
    base: Annotated[str, typer.Option(help="Base diffusion model.")] = "",
    preset: Preset = "",
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    per_class: Annotated[
        bool | None, typer.Option("--per-class/--shared", help="One adapter per class, or one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    idempotency_key: Key = None,
    no_wait: NoWait = False,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Train a LoRA adapter on the few-shot images of a dataset."""
    from cytosynth.client import AdapterSettings

    with connected(address) as client:
        job = client.fit_adapter(
            dataset,
            AdapterSettings(
                preset=preset,
                rank=rank,
                alpha=alpha,
                num_steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                per_class=per_class,
                seed=seed,
            ),
            base=base,
            idempotency_key=idempotency_key,
        )
        follow(job, no_wait, json)


def fit_classifier(
    dataset: Annotated[str, typer.Argument(help="datasets/…")],
    architecture: Annotated[str, typer.Option(help="resnet18, resnet50 or clip.")] = "resnet18",
    adapter: Annotated[
        str, typer.Option(help="adapters/… whose synthetic cells join the training set.")
    ] = "",
    synthetic_per_class: Annotated[
        int, typer.Option(help="Synthetic images per class, with --adapter.")
    ] = 200,
    loss_weight: Annotated[
        float | None, typer.Option(help="Weight of the synthetic part of the loss, 0 to 1.")
    ] = None,
    sampler_preset: Annotated[str, typer.Option(help="draft, fast, balanced or paper.")] = "",
    preset: Preset = "",
    clip_base: Annotated[str, typer.Option(help="CLIP base; clip only.")] = "",
    resnet_base: Annotated[
        str, typer.Option(help="ResNet base to start from; default: from scratch.")
    ] = "",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Real images per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Image side, pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    idempotency_key: Key = None,
    no_wait: NoWait = False,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Train a classifier on real images, or with --adapter on real and synthetic ones."""
    from cytosynth.client import ClassifierSettings, SamplerSettings, SyntheticSettings

    synthetic = None
    if adapter:
        synthetic = SyntheticSettings(
            adapter=adapter,
            num_per_class=synthetic_per_class,
            seed=seed or 0,
            sampler=SamplerSettings(sampler_preset),
            loss_weight=loss_weight,
        )
    with connected(address) as client:
        job = client.fit_classifier(
            dataset,
            ClassifierSettings(
                architecture=architecture,
                preset=preset,
                clip_base=clip_base,
                resnet_base=resnet_base,
                num_steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                image_size=image_size,
                seed=seed,
            ),
            synthetic=synthetic,
            idempotency_key=idempotency_key,
        )
        follow(job, no_wait, json)


def report(
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.json.")],
    name: Annotated[str, typer.Argument(help="reports/… to download again.")] = "",
    dataset: Annotated[str, typer.Option(help="datasets/… of a new report.")] = "",
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", help="MODEL:ARM:classifiers/…, for example resnet18:real_only:…"),
    ] = None,
    title: Annotated[str, typer.Option(help="Title.")] = "",
    idempotency_key: Key = None,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Compare classifiers on the locked test set, or download a report again."""
    from cytosynth.client import ReportArm

    if bool(name) == bool(dataset):
        raise typer.BadParameter("name a report to download, or --dataset and --arm for a new one")
    arms = []
    for text in arm or ():
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise typer.BadParameter(f"{text!r} is not MODEL:ARM:classifiers/…", param_hint="--arm")
        arms.append(ReportArm(*parts))
    with connected(address) as client:
        if dataset:
            job = client.create_report(dataset, arms, title=title, idempotency_key=idempotency_key)
            with show.meter(quiet=json) as meter:
                name = job.wait(meter.job).result
        paths = client.download_report(name, out)
    if json:
        show.as_json({"name": name, "files": paths})
    else:
        for path in paths:
            typer.echo(str(path))


def datasets(address: Address = None, json: AsJson = False) -> None:
    """List datasets."""
    with connected(address) as client:
        found = client.list_datasets()
    if json:
        show.as_json(found)
        return
    rows = [
        (item.name, item.display_name, len(item.classes), item.num_train, item.num_test)
        for item in found
    ]
    columns = ("name", "display name", "classes", "train", "test")
    show.table(columns, rows, numeric=columns[2:])


def adapters(address: Address = None, json: AsJson = False) -> None:
    """List adapters."""
    with connected(address) as client:
        found = client.list_adapters()
    if json:
        show.as_json(found)
        return
    rows = [
        (item.name, item.base, item.dataset, len(item.class_ids), show.when(item.create_time))
        for item in found
    ]
    show.table(("name", "base", "dataset", "classes", "created"), rows, numeric=("classes",))


def classifiers(address: Address = None, json: AsJson = False) -> None:
    """List classifiers with the data they were trained on."""
    with connected(address) as client:
        found = client.list_classifiers()
    if json:
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


def delete(
    name: Annotated[str, typer.Argument(help="datasets/… or adapters/…")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Delete a dataset or an adapter, with proof of what is gone."""
    kind = name.partition("/")[0]
    if kind not in ("datasets", "adapters"):
        raise typer.BadParameter("name datasets/… or adapters/…", param_hint="NAME")
    if not yes:
        typer.confirm(f"Delete {name} for good?", abort=True)
    with connected(address) as client:
        proof = client.delete_dataset(name) if kind == "datasets" else client.delete_adapter(name)
    if json:
        show.as_json(proof)
    else:
        typer.echo(f"{proof.name}: {proof.num_objects} objects deleted, proof {proof.digest}")


def follow(job: JobHandle, no_wait: bool, json: bool) -> None:
    """Follow a job to its end and print what it made, or only its name."""
    if no_wait:
        show.as_json(job.job) if json else typer.echo(job.name)
        return
    with (
        interruptible(f"{job.name} goes on; `cytosynth watch {job.name}` or `cytosynth cancel`"),
        show.meter(quiet=json) as meter,
    ):
        done = job.wait(meter.job)
    show.as_json(done) if json else typer.echo(done.result)


def _show_dataset(dataset: Dataset, json: bool) -> None:
    if json:
        show.as_json(dataset)
        return
    rows = [
        (item.class_id, item.num_images, item.num_train, item.num_test, item.left_out_reason)
        for item in dataset.classes
    ]
    columns = ("class", "images", "train", "test", "left out because")
    show.table(columns, rows, numeric=columns[1:4])
    show.notices(dataset.notices)
    typer.echo(dataset.name)
