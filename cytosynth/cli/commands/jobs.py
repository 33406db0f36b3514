"""``jobs``, ``watch`` and ``cancel``."""

from __future__ import annotations

from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.options import Address, AsJson, connected, interruptible

_PANEL = "Jobs"
Name = Annotated[str, typer.Argument(help="jobs/…")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=_PANEL)(jobs)
    app.command(rich_help_panel=_PANEL)(watch)
    app.command(rich_help_panel=_PANEL)(cancel)


def jobs(
    state: Annotated[
        str, typer.Option(help="Only PENDING, RUNNING, SUCCEEDED, FAILED or CANCELLED.")
    ] = "",
    address: Address = None,
    json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connected(address) as client:
        found = client.list_jobs(state)
    if json:
        show.as_json(found)
        return
    rows = [
        (
            job.name,
            job.kind,
            job.state,
            f"{job.progress.step}/{job.progress.total_steps}" if job.progress.total_steps else "",
            job.result or (str(job.error) if job.error else ""),
            show.when(job.create_time),
        )
        for job in found
    ]
    show.table(("name", "kind", "state", "step", "result", "created"), rows)


def watch(name: Name, address: Address = None, json: AsJson = False) -> None:
    """Follow a job to its end with a progress bar and the time left.

    With --json one line per change. Exit code 1 if the job fails or is cancelled.
    """
    with interruptible(f"{name} goes on"), connected(address) as client:
        handle = client.job(name)
        if json:
            for job in handle.watch():
                show.json_line(job)
        with show.meter(quiet=json) as meter:
            done = handle.wait(meter.job)
    if not json:
        typer.echo(done.result)


def cancel(name: Name, address: Address = None, json: AsJson = False) -> None:
    """Ask a job to stop; it does within one training step."""
    with connected(address) as client:
        handle = client.job(name)
        job = handle.cancel()
    if json:
        show.as_json(job)
    else:
        typer.echo(
            f"{job.name}: {job.state.lower()}, asked to stop"
            if not job.done
            else f"{job.name}: {job.state.lower()}"
        )
