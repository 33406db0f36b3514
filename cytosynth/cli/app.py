"""The list of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytosynth import traces
from cytosynth.cli.commands import (
    classification,
    jobs,
    pipeline,
    review,
    stack,
    study,
    synthesis,
    training,
)
from cytosynth.cli.options import Caller, set_caller
from cytosynth.cli.show import RESEARCH_USE

app = typer.Typer(
    name="cytosynth",
    help="Synthetic white blood cells for few-shot AML classification. " + RESEARCH_USE,
    epilog=RESEARCH_USE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("cytosynth")
        except PackageNotFoundError:
            number = "(not installed)"
        typer.echo(f"cytosynth {number}. {RESEARCH_USE}")
        raise typer.Exit


@app.callback()
def root(
    tenant: Annotated[
        str | None, typer.Option(envvar="CYTOSYNTH_TENANT", help="Whose data to work with.")
    ] = None,
    tls_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="CYTOSYNTH_TLS_DIR",
            help="Folder with ca.pem, client-TENANT.pem and .key, as `cytosynth certs` makes it.",
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds that one call may take.")
    ] = None,
    traces_endpoint: Annotated[
        str,
        typer.Option(
            envvar="CYTOSYNTH_TRACES_ENDPOINT",
            help="OTLP gRPC collector that traces of calls go to, as http://host:port.",
        ),
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep what is said before the command."""
    set_caller(Caller(tenant, tls_dir, timeout))
    try:
        traces.start(traces_endpoint, "client")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--traces-endpoint") from None


for commands in (
    pipeline,
    study,
    review,
    stack,
    training,
    jobs,
    synthesis,
    classification,
):
    commands.register(app)
