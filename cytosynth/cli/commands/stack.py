"""``up``, ``down``, ``status`` and ``certs``: the services on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.options import AsJson

_PANEL = "Services on this machine"
StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CYTOSYNTH_STATE_DIR", help="Where everything is kept; default: .cytosynth here."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=_PANEL)(up)
    app.command(rich_help_panel=_PANEL)(down)
    app.command(rich_help_panel=_PANEL)(status)
    app.command(rich_help_panel=_PANEL)(certs)


def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the edge.")] = 50051,
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak TLS, with development certificates.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    client_certificates: Annotated[
        str | None, typer.Option(help="With --tls: none, optional or required.")
    ] = None,
    certs_dir: Annotated[Path | None, typer.Option(help="Folder of the certificates.")] = None,
    state_dir: StateDir = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until it is ready.")] = 180,
    json: AsJson = False,
) -> None:
    """Start the three services and the edge; returns when all of them answer."""
    from cytosynth.stack import stack as local_stack

    if client_certificates not in (None, "none", "optional", "required"):
        raise typer.BadParameter("none, optional or required", param_hint="--client-certificates")
    with show.meter(quiet=json) as meter:
        info = local_stack.up(
            port,
            tls=tls,
            host=host,
            client_certificates=client_certificates,  # type: ignore[arg-type]
            certs_dir=certs_dir,
            state_dir=state_dir,
            timeout_seconds=timeout,
            on_progress=lambda activity, seconds: meter.update(
                activity, detail=show.duration(seconds)
            ),
        )
    if json:
        show.as_json(info)
    else:
        secured = " (TLS)" if info.tls else ""
        typer.echo(f"Cytosynth is ready at {info.address}{secured}. {show.RESEARCH_USE}")


def down(state_dir: StateDir = None, json: AsJson = False) -> None:
    """Stop everything that `up` started."""
    from cytosynth.stack import stack as local_stack

    stopped = local_stack.down(state_dir)
    if json:
        show.as_json({"stopped": stopped})
    else:
        typer.echo("Cytosynth is down." if stopped else "Cytosynth was not running.")


def status(state_dir: StateDir = None, json: AsJson = False) -> None:
    """Say what is running and what answers; exit code 1 unless all is well."""
    from cytosynth.stack import stack as local_stack

    found = local_stack.status(state_dir)
    if json:
        show.as_json(found)
    else:
        where = f" at {found.info.address}" if found.info else ""
        typer.echo(f"{found.state}{where}: {found.detail}")
        if found.services:
            rows = [
                (service.name, "ready" if service.ready else "not ready", service.detail)
                for service in found.services
            ]
            show.table(("service", "state", "detail"), rows)
        if found.num_processes:
            typer.echo(f"{found.num_processes} processes, {found.memory_bytes / 1e9:.2f} GB")
    if found.state != "running":
        raise typer.Exit(1)


def certs(
    out: Annotated[Path, typer.Option("--out", help="Folder for the certificates.")] = Path(
        ".cytosynth/certs"
    ),
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", help="Tenant with a certificate; repeatable.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="Name or address of the edge, beside those before; repeatable."
        ),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Make all of them anew.")] = False,
    json: AsJson = False,
) -> None:
    """Make certificates for development: an authority, the edge's, one per tenant."""
    from cytosynth.stack.certificate_files import DEFAULT_HOSTS, DEFAULT_TENANT
    from cytosynth.stack.certs import make_certificates

    made = make_certificates(
        out,
        tenants=tenant or [DEFAULT_TENANT],
        hosts=(*DEFAULT_HOSTS, *(host or ())),
        renew=renew,
    )
    if json:
        show.as_json({"directory": made.directory, "ca": made.ca, "tenants": made.tenants})
    else:
        typer.echo(f"{made.directory}: authority, edge, tenants {', '.join(made.tenants)}")
        typer.echo("For development only: a hospital's own authority signs in production.")
