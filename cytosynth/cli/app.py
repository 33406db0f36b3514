"""The list of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from cytosynth.cli.commands import (
    certs,
    classification,
    datasets,
    deletion,
    jobs,
    logs,
    models,
    phantoms,
    pipeline,
    reports,
    review,
    stack,
    study,
    synthesis,
    training,
)
from cytosynth.cli.global_options import (
    Address,
    AsJson,
    CertsDir,
    GlobalGroup,
    Tenant,
    Timeout,
    TracesEndpoint,
    Verbose,
)
from cytosynth.cli.show import RESEARCH_USE

app = typer.Typer(
    name="cytosynth",
    cls=GlobalGroup,
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
    address: Address = None,
    tenant: Tenant = None,
    certs_dir: CertsDir = None,
    timeout: Timeout = None,
    traces_endpoint: TracesEndpoint = "",
    json: AsJson = False,
    verbose: Verbose = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of every command, which each command reads for itself."""


for commands in (
    pipeline,
    phantoms,
    study,
    review,
    stack,
    logs,
    certs,
    datasets,
    training,
    reports,
    deletion,
    jobs,
    synthesis,
    classification,
    models,
):
    commands.register(app)
