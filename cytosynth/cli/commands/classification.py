"""``classify`` and ``evaluate``: classes of images, and their reliability."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.answer_text import answers_csv, answers_json, figure_tables
from cytosynth.cli.class_shares import class_shares
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import connected

if TYPE_CHECKING:
    from cytosynth.client import AnswerOptions, Classification, CytosynthError

SOME_IMAGES_REFUSED = 3
"""Exit code: some images could not be read; all others were classified."""
_ANSWER_WORDS = {
    "model": "--model",
    "options.class_priors": "--class-priors",
    "options.estimate_priors": "--estimate-priors",
    "options.coverage": "--coverage",
}
_CLASSIFY_WORDS = {**_ANSWER_WORDS, "options.top_k": "--top-k", "images": "PATHS"}

ModelName = Annotated[
    str, typer.Option("--model", help="classifiers/… or aliases/…; default: aliases/production.")
]
BatchSize = Annotated[int, typer.Option(min=1, max=256, help="Images per call.")]
ClassPriors = Annotated[
    str,
    typer.Option(
        help="Share of each class among your cells: class=0.6,class=0.4, or a CSV file of counts. "
        "Default: as trained."
    ),
]
EstimatePriors = Annotated[
    bool,
    typer.Option("--estimate-priors", help="Estimate the shares from each call of 50 images on."),
]
Coverage = Annotated[
    float | None,
    typer.Option(help="Chance that a prediction set holds the true class; default: 0.9."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel="Classification", words=_CLASSIFY_WORDS)(classify)
    command(app, panel="Classification", words=_ANSWER_WORDS)(evaluate)


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    model: ModelName = "",
    class_priors: ClassPriors = "",
    estimate_priors: EstimatePriors = False,
    coverage: Coverage = None,
    top_k: Annotated[int, typer.Option(min=0, help="Most classes an image; 0: all.")] = 0,
    saliency: Annotated[
        Path | None, typer.Option(help="Folder for pictures of what answers rest on. Slow.")
    ] = None,
    batch_size: BatchSize = 64,
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
    options = _options(class_priors, estimate_priors, coverage, top_k, saliency is not None)
    files, left_out = image_files(paths)
    answers: list[tuple[Path, Classification]] = []
    refused: list[tuple[Path, CytosynthError]] = []
    with connected() as client, show.meter(quiet=as_json or as_csv) as meter:
        update = meter.counted("classifying")
        update(0, len(files))
        answered = client.classify_each(files, model=model, batch_size=batch_size, options=options)
        for done, (file, answer) in enumerate(zip(files, answered, strict=True), 1):
            if isinstance(answer, Exception):
                refused.append((file, answer))
            else:
                answers.append((file, answer))
                if saliency and answer.saliency_png:
                    name = f"{done:05}-{file.stem}.png"
                    write_whole(saliency / name, answer.saliency_png)
            update(done, len(files))
    show.notices(left_out)
    if as_json or as_csv:
        text = answers_json(answers, refused) if as_json else answers_csv(answers)
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


def evaluate(
    folder: Annotated[Path, typer.Argument(help="ImageFolder tree: <class>/<image>.")],
    model: ModelName = "",
    non_cells: Annotated[
        Path | None, typer.Option(help="Folder of pictures without a cell, to be told apart.")
    ] = None,
    class_priors: ClassPriors = "",
    estimate_priors: EstimatePriors = False,
    coverage: Coverage = None,
    batch_size: BatchSize = 64,
    out: Annotated[Path | None, typer.Option("--out", help="Write JSON to this file too.")] = None,
) -> None:
    """Judge a classifier on labelled images that it has not seen.

    Exit code 3 if some images cannot be read: they are named on stderr, all others are judged.
    """
    from cytosynth.client.atomic_files import write_whole
    from cytosynth.evaluation.labelled_folder import evaluate as judge

    options = _options(class_priors, estimate_priors, coverage)
    as_json = caller().json
    with connected() as client, show.meter(quiet=as_json) as meter:
        judged = judge(
            client,
            folder,
            model=model,
            non_cells=non_cells,
            options=options,
            batch_size=batch_size,
            on_answer=meter.counted("classifying"),
        )
    show.notices(judged.notices)
    if out:
        write_whole(out, (json.dumps(judged.figures, indent=2) + "\n").encode())
    if as_json:
        show.as_json(judged.figures)
    else:
        for title, columns, rows in figure_tables(judged.figures):
            show.table(columns, rows, title=title, numeric=columns[1:])
        typer.echo(show.RESEARCH_USE)
    for error in judged.refused:
        typer.echo(f"cytosynth: {error}", err=True)
    if judged.refused:
        raise typer.Exit(SOME_IMAGES_REFUSED)


def _options(
    class_priors: str,
    estimate_priors: bool,
    coverage: float | None,
    top_k: int = 0,
    saliency: bool = False,
) -> AnswerOptions:
    from cytosynth.client import AnswerOptions

    return AnswerOptions(class_shares(class_priors), estimate_priors, coverage, top_k, saliency)


def _show(answers: Sequence[tuple[Path, Classification]]) -> None:
    columns = ["file", "class", "probability", "next"]
    first = answers[0][1]
    if first.context.conformal:
        columns += [f"set at {100 * first.context.coverage:g} %", "review"]
    rows = [
        (
            file,
            answer.class_id,
            f"{answer.probability:.3f}",
            _runner_up(answer),
            " ".join(answer.prediction_set),
            " ".join(answer.review_reasons).replace("_", "-"),
        )[: len(columns)]
        for file, answer in answers
    ]
    show.table(columns, rows, title=first.model, numeric=("probability",))
    if first.context.manifest_digest and not first.context.calibrated:
        typer.echo("These probabilities are not calibrated.")
    typer.echo(show.RESEARCH_USE)


def _runner_up(answer: Classification) -> str:
    others = [item for item in answer.probabilities.items() if item[0] != answer.class_id]
    return f"{others[0][0]} {others[0][1]:.3f}" if others else ""
