"""``upload``, ``import`` and ``datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import (
    Key,
    MaxTest,
    Seed,
    Shots,
    connected,
    interruptible,
    parse_shots,
    split_shots,
)
from cytosynth.cli.words import SPLIT

if TYPE_CHECKING:
    from cytosynth.client import Dataset

_PANEL = "Training"
Crop = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of the shorter side to keep; 0: estimated."),
]
Name = Annotated[str, typer.Option(help="Display name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel=_PANEL, words=SPLIT)(upload)
    command(app, "import", panel=_PANEL, words=SPLIT)(import_)
    command(app, panel=_PANEL)(datasets)


def upload(
    folder: Annotated[Path, typer.Argument(help="ImageFolder tree: <class>/<image>.")],
    shots: Shots = "0",
    max_test_per_class: MaxTest = 0,
    seed: Seed = 0,
    center_crop: Crop = 0.0,
    name: Name = "",
    idempotency_key: Key = None,
) -> None:
    """Upload a folder of cells and lock its training/test split."""
    from cytosynth.client import SplitSettings, read_image_tree
    from cytosynth.workflows.progress import display_name

    wanted = parse_shots(shots)
    tree = read_image_tree(folder)
    split = SplitSettings(
        **split_shots(wanted, tree.class_ids), max_test_per_class=max_test_per_class, seed=seed
    )
    with (
        interruptible("nothing was kept"),
        connected() as client,
        show.meter(quiet=caller().json) as meter,
    ):
        dataset = client.upload_dataset(
            tree,
            split=split,
            center_crop=center_crop,
            display_name=name or display_name(folder),
            idempotency_key=idempotency_key,
            on_progress=meter.counted("uploading"),
        )
    _show_dataset(dataset)


def import_(
    uri: Annotated[str, typer.Argument(help="Folder that the server reads, for example s3://…")],
    shots: Shots = "0",
    max_test_per_class: MaxTest = 0,
    seed: Seed = 0,
    center_crop: Crop = 0.0,
    name: Name = "",
    idempotency_key: Key = None,
) -> None:
    """Make a dataset from a folder that the server reads."""
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
    with connected() as client:
        dataset = client.import_dataset(
            uri,
            split=split,
            center_crop=center_crop,
            display_name=name,
            idempotency_key=idempotency_key,
        )
    _show_dataset(dataset)


def datasets() -> None:
    """List datasets."""
    with connected() as client:
        found = client.list_datasets()
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (item.name, item.display_name, len(item.classes), item.num_train, item.num_test)
        for item in found
    ]
    columns = ("name", "display name", "classes", "train", "test")
    show.table(columns, rows, numeric=columns[2:])


def _show_dataset(dataset: Dataset) -> None:
    if caller().json:
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
