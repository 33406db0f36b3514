"""``models`` and ``alias``: classifiers in service and names for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import GlobalSubgroup, caller, command
from cytosynth.cli.options import connected

if TYPE_CHECKING:
    from cytosynth.client import Alias

_PANEL = "Classification"
_NAME = {"name": "NAME"}
Name = Annotated[str, typer.Argument(help="production, candidate, …")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel=_PANEL)(models)
    alias = typer.Typer(
        cls=GlobalSubgroup,
        help="Point names such as production at classifiers.",
        no_args_is_help=True,
    )
    command(alias, "list")(alias_list)
    command(alias, "set", words={**_NAME, "model": "MODEL"})(alias_set)
    command(alias, "rollback", words=_NAME)(alias_rollback)
    command(alias, "delete", words=_NAME)(alias_delete)
    app.add_typer(alias, name="alias", rich_help_panel=_PANEL)


def models() -> None:
    """List the classifiers that can be asked, newest first."""
    with connected() as client:
        found = client.list_models()
    if caller().json:
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


def alias_list() -> None:
    """List aliases."""
    with connected() as client:
        found = client.list_aliases()
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (alias.name, alias.model, alias.previous_model, show.when(alias.update_time))
        for alias in found
    ]
    show.table(("alias", "classifier", "before", "changed"), rows)


def alias_set(name: Name, model: Annotated[str, typer.Argument(help="classifiers/…")]) -> None:
    """Point an alias at a classifier."""
    with connected() as client:
        _show_alias(client.set_alias(_alias_name(name), model))


def alias_rollback(name: Name) -> None:
    """Point an alias back at its earlier classifier."""
    with connected() as client:
        _show_alias(client.rollback_alias(_alias_name(name)))


def alias_delete(name: Name) -> None:
    """Remove an alias; the classifier behind it stays."""
    with connected() as client:
        client.delete_alias(_alias_name(name))
    if caller().json:
        show.as_json({"deleted": _alias_name(name)})
    else:
        typer.echo(f"{_alias_name(name)}: removed")


def _alias_name(name: str) -> str:
    return name if name.startswith("aliases/") else f"aliases/{name}"


def _show_alias(alias: Alias) -> None:
    if caller().json:
        show.as_json(alias)
    else:
        typer.echo(f"{alias.name} -> {alias.model} (before: {alias.previous_model or 'nothing'})")
