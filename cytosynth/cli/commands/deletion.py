"""``delete``: datasets, adapters, classifiers and reports, with proof."""

from __future__ import annotations

from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import connected

_KINDS = ("datasets", "adapters", "classifiers", "reports")


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    command(app, panel="Training", words={"name": "NAME"})(delete)


def delete(
    name: Annotated[str, typer.Argument(help="datasets/…, adapters/…, classifiers/… or reports/…")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a dataset, adapter, classifier or report, with proof.

    A classifier that an alias points at is refused: move the alias first.
    """
    kind = name.partition("/")[0]
    if kind == "jobs":
        raise typer.BadParameter(
            "a job is not deleted; `cytosynth cancel` ends it", param_hint="NAME"
        )
    if kind == "aliases":
        raise typer.BadParameter("an alias: use `cytosynth alias delete`", param_hint="NAME")
    if kind not in _KINDS:
        shapes = ", ".join(f"{kind}/…" for kind in _KINDS)
        raise typer.BadParameter(f"{name!r} is none of {shapes}", param_hint="NAME")
    if not yes:
        typer.confirm(f"Delete {name} for good?", abort=True)
    with connected() as client:
        delete_one = {
            "datasets": client.delete_dataset,
            "adapters": client.delete_adapter,
            "classifiers": client.delete_classifier,
            "reports": client.delete_report,
        }[kind]
        proof = delete_one(name)
    if caller().json:
        show.as_json(proof)
    else:
        typer.echo(f"{proof.name}: {proof.num_objects} objects deleted, proof {proof.digest}")
