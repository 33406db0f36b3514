"""``up``, ``down`` and ``status``: the services on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command, was_given
from cytosynth.cli.options import StateDir, connected, refuse_without_effect

_PANEL = "Services on this machine"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, panel=_PANEL, calls=False, renamed={"--timeout": "--ready-timeout"})(up)
    command(app, panel=_PANEL, calls=False)(down)
    command(app, panel=_PANEL)(status)


def up(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the edge; 0: any free one.")
    ] = 50051,
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak TLS, with development certificates.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    client_certificates: Annotated[
        str | None, typer.Option(help="With --tls: none, optional or required.")
    ] = None,
    certs_dir: Annotated[Path | None, typer.Option(help="Folder of the certificates.")] = None,
    state_dir: StateDir = None,
    ready_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait until it is ready.")
    ] = 180,
) -> None:
    """Start the three services and the edge; return when all answer."""
    from cytosynth.stack import stack as local_stack

    if client_certificates not in (None, "none", "optional", "required"):
        raise typer.BadParameter("none, optional or required", param_hint="--client-certificates")
    if not tls:
        given = {"--certs-dir": certs_dir}
        if client_certificates != "none":
            given["--client-certificates"] = client_certificates  # type: ignore[assignment]
        refuse_without_effect("without --tls", given, "add --tls, or leave it out")
    with show.meter(quiet=caller().json) as meter:
        info = local_stack.up(
            port,
            tls=tls,
            host=host,
            client_certificates=client_certificates,  # type: ignore[arg-type]
            certs_dir=certs_dir,
            state_dir=state_dir,
            timeout_seconds=ready_timeout,
            on_progress=lambda activity, seconds: meter.update(
                activity, detail=show.duration(seconds)
            ),
        )
    if caller().json:
        show.as_json(info)
    else:
        secured = " (TLS)" if info.tls else ""
        typer.echo(f"Cytosynth is ready at {info.address}{secured}. {show.RESEARCH_USE}")


def down(state_dir: StateDir = None) -> None:
    """Stop everything that `up` started."""
    from cytosynth.stack import stack as local_stack

    stopped = local_stack.down(state_dir)
    if caller().json:
        show.as_json({"stopped": stopped})
    else:
        typer.echo("Cytosynth is down." if stopped else "Cytosynth was not running.")


def status(context: typer.Context, state_dir: StateDir = None) -> None:
    """Show what runs and what answers; exit code 1 unless all do.

    With --address the services there; otherwise the stack of this folder.
    """
    from cytosynth.stack import stack as local_stack

    if caller().address:
        if was_given(context, "state_dir"):
            given = {"--state-dir": state_dir}
            refuse_without_effect("with --address", given, "leave one of the two out")
        _status_at_address()
        return
    found = local_stack.status(state_dir)
    if caller().json:
        show.as_json(found)
    else:
        where = f" at {found.info.address}" if found.info else ""
        typer.echo(f"{found.state}{where}: {found.detail}")
        if found.services:
            _show_services(
                [(service.name, service.ready, service.detail) for service in found.services]
            )
        if found.num_processes:
            typer.echo(f"{found.num_processes} processes, {found.memory_bytes / 1e9:.2f} GB")
    if found.state != "running":
        raise typer.Exit(1)


def _status_at_address() -> None:
    from cytosynth.client import CytosynthError

    services: list[tuple[str, bool, str]] = []
    with connected() as client:
        for name, call in (
            ("generator", client.capabilities),
            ("classifier", client.list_aliases),
            ("trainer", lambda: client.list_jobs(limit=1)),
        ):
            try:
                call()
                services.append((name, True, "ready"))
            except CytosynthError as error:
                services.append((name, False, str(error)))
        address = client.address
    if caller().json:
        listed = [{"name": name, "ready": ready, "detail": text} for name, ready, text in services]
        show.as_json({"address": address, "services": listed})
    else:
        _show_services(services, address)
    if not all(ready for _, ready, _ in services):
        raise typer.Exit(1)


def _show_services(services: list[tuple[str, bool, str]], title: str = "") -> None:
    rows = [(name, "ready" if ready else "not ready", detail) for name, ready, detail in services]
    show.table(("service", "state", "detail"), rows, title=title)
