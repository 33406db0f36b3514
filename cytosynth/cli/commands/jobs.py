"""``jobs``, ``watch`` and ``cancel``."""

from __future__ import annotations

from typing import Annotated

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import connected, interruptible

_PANEL = "Jobs"
Name = Annotated[str, typer.Argument(help="jobs/…")]
_WORDS = {"name": "NAME", "state": "--state", "limit": "--limit", "page_size": "--limit"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (jobs, watch, cancel):
        command(app, panel=_PANEL, words=_WORDS)(function)


def jobs(
    state: Annotated[
        str, typer.Option(help="Only PENDING, RUNNING, SUCCEEDED, FAILED or CANCELLED.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs to list.")] = 1000,
) -> None:
    """List jobs, newest first."""
    with connected() as client:
        found = client.list_jobs(state, limit=limit)
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (
            job.name,
            job.kind,
            job.state,
            show.steps(job),
            job.result or (str(job.error) if job.error else ""),
            show.when(job.create_time),
        )
        for job in found
    ]
    show.table(("name", "kind", "state", "step", "result", "created"), rows)


def watch(name: Name) -> None:
    """Follow a job to its end, with progress and time left.

    With --json one line per change. Exit code 1 if the job fails or is cancelled.
    """
    quiet = caller().json
    with interruptible(f"{name} goes on"), connected() as client:
        handle = client.job(name)
        if quiet:
            for job in handle.watch():
                show.json_line(job)
        with show.meter(quiet=quiet) as meter:
            done = handle.wait(meter.job)
    if not quiet:
        typer.echo(done.result)


def cancel(name: Name) -> None:
    """Ask a job to stop, which it does within one training step."""
    with connected() as client:
        job = client.job(name).cancel()
    if caller().json:
        show.as_json(job)
    else:
        asked = "" if job.done else ", asked to stop"
        typer.echo(f"{job.name}: {job.state.lower()}{asked}")
