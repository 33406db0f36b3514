"""``classify``: a table, JSON or CSV of the classes of images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import connected

if TYPE_CHECKING:
    from cytosynth.client import Classification, CytosynthError

SOME_IMAGES_REFUSED = 3
"""Exit code: some images could not be read; all others were classified."""
_WORDS = {"model": "--model", "images": "PATHS"}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    command(app, panel="Classification", words=_WORDS)(classify)


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    model: Annotated[
        str, typer.Option(help="classifiers/… or aliases/…; default: aliases/production.")
    ] = "",
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Images per call.")] = 64,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one column per class.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write JSON or CSV to this file instead.")
    ] = None,
) -> None:
    """Classify cells: a table, or JSON or CSV with all probabilities.

    Exit code 3 if some images cannot be read: they are named on stderr, all others are classified.
    """
    from cytosynth.client.atomic_files import write_whole
    from cytosynth.client.image_tree import image_files

    as_json = caller().json
    if as_csv and as_json:
        raise typer.BadParameter("choose --csv or --json")
    if out and not (as_csv or as_json):
        raise typer.BadParameter("choose the format: --csv or --json", param_hint="--out")
    files, left_out = image_files(paths)
    answers: list[tuple[Path, Classification]] = []
    refused: list[tuple[Path, CytosynthError]] = []
    with connected() as client, show.meter(quiet=as_json or as_csv) as meter:
        update = meter.counted("classifying")
        update(0, len(files))
        answered = client.classify_each(files, model=model, batch_size=batch_size)
        for done, (file, answer) in enumerate(zip(files, answered, strict=True), 1):
            if isinstance(answer, Exception):
                refused.append((file, answer))
            else:
                answers.append((file, answer))
            update(done, len(files))
    show.notices(left_out)
    if as_json or as_csv:
        text = _json(answers, refused) if as_json else _csv(answers)
        if out:
            write_whole(out, text.encode("utf-8", "backslashreplace"))
        else:
            typer.echo(text, nl=False)
    elif answers:
        _show(answers)
    for _, error in refused:
        typer.echo(f"cytosynth: {error}", err=True)
    if refused:
        typer.echo(f"cytosynth: {len(refused)} of {len(files)} images were refused", err=True)
        raise typer.Exit(SOME_IMAGES_REFUSED)


def _json(
    answers: Sequence[tuple[Path, Classification]], refused: Sequence[tuple[Path, CytosynthError]]
) -> str:
    body = {
        "model": answers[0][1].model if answers else "",
        "images": [
            {
                "file": str(file),
                "class": answer.class_id,
                "probability": answer.probability,
                "probabilities": dict(answer.probabilities),
            }
            for file, answer in answers
        ],
    }
    if refused:
        body["errors"] = [{"file": str(file), **error.to_dict()} for file, error in refused]
    return json.dumps(body, indent=2) + "\n"


def _csv(answers: Sequence[tuple[Path, Classification]]) -> str:
    class_ids = sorted(answers[0][1].probabilities) if answers else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "model", "class", *(f"p_{class_id}" for class_id in class_ids)))
    for file, answer in answers:
        probabilities = (f"{answer.probabilities[class_id]:.6f}" for class_id in class_ids)
        writer.writerow((file, answer.model, answer.class_id, *probabilities))
    return text.getvalue()


def _show(answers: Sequence[tuple[Path, Classification]]) -> None:
    rows = [
        (file, answer.class_id, f"{answer.probability:.3f}", _runner_up(answer))
        for file, answer in answers
    ]
    columns = ("file", "class", "probability", "next")
    show.table(columns, rows, title=answers[0][1].model, numeric=("probability",))
    typer.echo(show.RESEARCH_USE)


def _runner_up(answer: Classification) -> str:
    others = [item for item in answer.probabilities.items() if item[0] != answer.class_id]
    return f"{others[0][0]} {others[0][1]:.3f}" if others else ""
