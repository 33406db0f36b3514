"""``review`` and ``review-report``: haematologists label a blinded mix; what they found."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import Seed

if TYPE_CHECKING:
    from cytosynth.review.report import ReviewReport

_PANEL = "Whole pipeline"
_WORDS = {"per_class": "--per-class", "center_crop": "--center-crop"}
Out = Annotated[Path, typer.Option("--out", help="Folder of the review: mix, answers, results.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel=_PANEL, calls=False, json=False, words=_WORDS)(review)
    command(app, "review-report", panel=_PANEL, calls=False)(review_report)


def review(
    real: Annotated[Path, typer.Option("--real", help="Real cells: <class>/<image>.")],
    synthetic: Annotated[
        Path, typer.Option("--synthetic", help="Synthetic cells, as `synthesize` writes them.")
    ],
    out: Out,
    per_class: Annotated[
        int, typer.Option(min=1, max=1000, help="Cells of each class, real and as many synthetic.")
    ] = 10,
    center_crop: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of a real image's shorter side that is shown, above 0. Give the dataset's "
            "(center_crop in `upload --json`), so that real and synthetic cells are framed alike.",
        ),
    ] = 1.0,
    seed: Seed = 0,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any.")] = 8095,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name by which browsers reach this machine."),
    ] = None,
) -> None:
    """Serve a page for blinded labelling of real and synthetic cells.

    Any number of reviewers, each at his or her own pace; every answer is kept at once, and the
    same command again goes on. Ctrl-C ends it.
    """
    from cytosynth.review.mix import MixOptions, open_mix
    from cytosynth.review.serve import alone, is_loopback, serve_review

    if not center_crop:
        raise typer.BadParameter("must be above 0", param_hint="--center-crop")
    options = MixOptions(per_class, center_crop, seed)
    # Ctrl-C is how a review ends.
    with suppress(KeyboardInterrupt), alone(out):
        with show.meter() as meter:
            mix = open_mix(real, synthetic, out, options, meter.counted("reading cells"))
        show.notices(mix.notices)
        if not is_loopback(host):
            open_to_all = (
                f"{host} is open to the network and the page asks for no password. "
                "Anyone who reaches the page sees the cells and can answer in any name. "
                "Browsers that call this machine by another name need --allow-host."
            )
            show.notices([open_to_all])

        def started(address: str) -> None:
            typer.echo(f"{len(mix.cells)} cells of {len(mix.class_ids)} classes at {address}")
            typer.echo("Ctrl-C ends it; the same command again goes on.")

        serve_review(mix, out, host, port, allow_host or (), started)
    typer.echo(f"Ended. Answers are in {out}; `cytosynth review-report --out {out}` counts them.")


def review_report(
    out: Out,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Folder of a study: put the review into its report, too."),
    ] = None,
) -> None:
    """Evaluate reviews: confusion, Cohen's κ, real/synthetic AUC, quality.

    May be asked at any time, also while the page is served.
    """
    from cytosynth.review.report import write_review
    from cytosynth.review.study_section import add_to_study

    written = write_review(out)
    paths = [written.html_path, written.json_path, written.csv_path]
    if report:
        paths += add_to_study(report, written.results, written.section)
    if caller().json:
        show.as_json(written.results)
    else:
        _show(written, paths)


def _show(written: ReviewReport, paths: list[Path]) -> None:
    """Print a row per reviewer and one for all, and the paths."""
    columns = ("reviewer", "answers", "AUC", "κ real", "κ synthetic", "quality real",
               "quality synthetic")  # fmt: skip
    overall: list[Any] = [{"reviewer": "all", **written.results["overall"]}]
    rows = []
    for figures in [*written.results["reviewers"], *overall]:
        real, synthetic = (figures["by_origin"][origin] for origin in ("real", "synthetic"))
        rows.append(
            (
                figures["reviewer"],
                figures["num_labelled"],
                _figure(figures, "auc"),
                _figure(real, "kappa"),
                _figure(synthetic, "kappa"),
                _figure(real, "quality"),
                _figure(synthetic, "quality"),
            )
        )
    title = "Blinded review (95 % interval over cells)"
    show.table(columns, rows, title=title, numeric=columns[1:])
    typer.echo(show.RESEARCH_USE)
    for path in paths:
        typer.echo(str(path))


def _figure(figures: dict[str, Any], name: str) -> str:
    value, interval = figures[name], figures[f"{name}_interval"]
    if value is None:
        return "n/a"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
