"""``report`` and ``reports``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import Key, connected, interruptible, refuse_without_effect
from cytosynth.cli.words import REPORT

_PANEL = "Training"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel=_PANEL, words=REPORT)(report)
    command(app, panel=_PANEL)(reports)


def report(
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.json.")],
    name: Annotated[str, typer.Argument(help="reports/… to download again.")] = "",
    dataset: Annotated[str, typer.Option(help="datasets/… of a new report.")] = "",
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", help="MODEL:ARM:classifiers/…, for example resnet18:real_only:…"),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "",
    idempotency_key: Key = None,
) -> None:
    """Compare classifiers on the locked test set, or download a report again."""
    from cytosynth.client import ReportArm

    if bool(name) == bool(dataset):
        raise typer.BadParameter("name a report to download, or --dataset and --arm for a new one")
    if name:
        given = {"--arm": arm or None, "--title": title, "--idempotency-key": idempotency_key}
        remedy = "leave it out, or give --dataset instead of the report's name"
        refuse_without_effect("on a report that is downloaded again", given, remedy)
    elif not arm:
        raise typer.BadParameter("name at least one classifier to compare", param_hint="--arm")
    arms = []
    for text in arm or ():
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise typer.BadParameter(f"{text!r} is not MODEL:ARM:classifiers/…", param_hint="--arm")
        arms.append(ReportArm(*parts))
    with connected() as client:
        if dataset:
            job = client.create_report(dataset, arms, title=title, idempotency_key=idempotency_key)
            consequence = f"{job.name} goes on; `cytosynth watch {job.name}` names its report"
            with interruptible(consequence), show.meter(quiet=caller().json) as meter:
                name = job.wait(meter.job).result
        paths = client.download_report(name, out)
    if caller().json:
        show.as_json({"name": name, "files": paths})
    else:
        for path in paths:
            typer.echo(str(path))


def reports() -> None:
    """List reports, newest first."""
    with connected() as client:
        found = client.list_reports()
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (item.name, item.kind, item.dataset, item.title, show.when(item.create_time))
        for item in found
    ]
    show.table(("name", "kind", "dataset", "title", "created"), rows)
