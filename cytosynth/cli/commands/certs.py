"""``certs``: certificates for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    renamed = {"--tenant": "--client", "--out": "--certs-dir"}
    command(app, panel="Services on this machine", calls=False, renamed=renamed)(certs)


def certs(
    certs_dir: Annotated[Path, typer.Option(help="Folder for the certificates.")] = Path(
        ".cytosynth/certs"
    ),
    client: Annotated[
        list[str] | None,
        typer.Option("--client", help="Tenant that gets a client certificate; repeatable."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="Name or address of the edge, beside those before; repeatable."
        ),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Make all of them anew.")] = False,
) -> None:
    """Make certificates for development: an authority, the edge's, one per tenant."""
    from cytosynth.stack.certificate_files import DEFAULT_HOSTS, DEFAULT_TENANT
    from cytosynth.stack.certs import make_certificates

    made = make_certificates(
        certs_dir,
        tenants=client or [DEFAULT_TENANT],
        hosts=(*DEFAULT_HOSTS, *(host or ())),
        renew=renew,
    )
    if caller().json:
        show.as_json({"directory": made.directory, "ca": made.ca, "tenants": made.tenants})
    else:
        typer.echo(f"{made.directory}: authority, edge, tenants {', '.join(made.tenants)}")
        typer.echo("For development only: a hospital's own authority signs in production.")
