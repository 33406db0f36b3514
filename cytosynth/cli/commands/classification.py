"""``classify``, ``models`` and ``alias``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.options import Address, AsJson, connected

if TYPE_CHECKING:
    from cytosynth.client import Alias, Classification

_PANEL = "Classification"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=_PANEL)(classify)
    app.command(rich_help_panel=_PANEL)(models)
    alias = typer.Typer(help="Point names such as production at classifiers.", no_args_is_help=True)
    alias.command("list")(alias_list)
    alias.command("set")(alias_set)
    alias.command("rollback")(alias_rollback)
    app.add_typer(alias, name="alias", rich_help_panel=_PANEL)


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    model: Annotated[
        str, typer.Option(help="classifiers/… or aliases/…; default: aliases/production.")
    ] = "",
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Images per call.")] = 64,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one column per class.")] = False,
    json: AsJson = False,
    address: Address = None,
) -> None:
    """Classify cells: a table, or JSON or CSV with the probability of every class."""
    from cytosynth.client.image_tree import image_files

    if as_csv and json:
        raise typer.BadParameter("choose --csv or --json")
    files, left_out = image_files(paths)
    answers: list[Classification] = []
    with connected(address) as client, show.meter(quiet=json or as_csv) as meter:
        update = meter.counted("classifying")
        update(0, len(files))
        for batch in client.classify_batches(files, model=model, batch_size=batch_size):
            answers += batch
            update(len(answers), len(files))
    show.notices(left_out)
    if json:
        show.as_json(
            {
                "model": answers[0].model,
                "images": [
                    {
                        "file": file,
                        "class": answer.class_id,
                        "probability": answer.probability,
                        "probabilities": answer.probabilities,
                    }
                    for file, answer in zip(files, answers, strict=True)
                ],
            }
        )
    elif as_csv:
        _write_csv(files, answers)
    else:
        rows = [
            (file, answer.class_id, f"{answer.probability:.3f}", _runner_up(answer))
            for file, answer in zip(files, answers, strict=True)
        ]
        columns = ("file", "class", "probability", "next")
        show.table(columns, rows, title=answers[0].model, numeric=("probability",))
        typer.echo(show.RESEARCH_USE)


def models(address: Address = None, json: AsJson = False) -> None:
    """List the classifiers that can be asked, newest first."""
    with connected(address) as client:
        found = client.list_models()
    if json:
        show.as_json(found)
        return
    rows = [
        (
            model.name,
            model.architecture,
            len(model.class_ids),
            show.figures(model.metrics),
            ", ".join(model.aliases),
            show.when(model.create_time),
        )
        for model in found
    ]
    columns = ("name", "architecture", "classes", "test figures", "aliases", "created")
    show.table(columns, rows, numeric=("classes",))


def alias_list(address: Address = None, json: AsJson = False) -> None:
    """List aliases."""
    with connected(address) as client:
        found = client.list_aliases()
    if json:
        show.as_json(found)
        return
    rows = [
        (alias.name, alias.model, alias.previous_model, show.when(alias.update_time))
        for alias in found
    ]
    show.table(("alias", "classifier", "before", "changed"), rows)


def alias_set(
    name: Annotated[str, typer.Argument(help="production, candidate, …")],
    model: Annotated[str, typer.Argument(help="classifiers/…")],
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Point an alias at a classifier."""
    with connected(address) as client:
        _show_alias(client.set_alias(_alias_name(name), model), json)


def alias_rollback(
    name: Annotated[str, typer.Argument(help="production, candidate, …")],
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Point an alias back at what it meant before."""
    with connected(address) as client:
        _show_alias(client.rollback_alias(_alias_name(name)), json)


def _alias_name(name: str) -> str:
    return name if name.startswith("aliases/") else f"aliases/{name}"


def _show_alias(alias: Alias, json: bool) -> None:
    if json:
        show.as_json(alias)
    else:
        typer.echo(f"{alias.name} -> {alias.model} (before: {alias.previous_model or 'nothing'})")


def _runner_up(answer: Classification) -> str:
    others = [item for item in answer.probabilities.items() if item[0] != answer.class_id]
    return f"{others[0][0]} {others[0][1]:.3f}" if others else ""


def _write_csv(files: list[Path], answers: list[Classification]) -> None:
    class_ids = sorted(answers[0].probabilities)
    writer = csv.writer(sys.stdout)
    writer.writerow(("file", "model", "class", *(f"p_{class_id}" for class_id in class_ids)))
    for file, answer in zip(files, answers, strict=True):
        probabilities = (f"{answer.probabilities[class_id]:.6f}" for class_id in class_ids)
        writer.writerow((file, answer.model, answer.class_id, *probabilities))
