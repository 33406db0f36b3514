"""Output: tables and progress bars for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cytosynth.client import Job

RESEARCH_USE = "Research use only. Not a medical device."
# Without a terminal, a line of progress is printed at most this often.
_QUIET_SECONDS = 15.0


def console(stderr: bool = False) -> Console:
    """A rich console that folds lines only in a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else 160
    )


def as_json(value: Any) -> None:
    """Print ``value`` (records included) as one JSON document."""
    typer.echo(json.dumps(value, default=_plain, indent=2))


def json_line(value: Any) -> None:
    """Print ``value`` as one line of JSON."""
    typer.echo(json.dumps(value, default=_plain))


def notices(texts: Iterable[str]) -> None:
    """Print on stderr what was corrected or left out."""
    for text in texts:
        typer.echo(f"note: {text}", err=True)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    numeric: Sequence[str] = (),
) -> None:
    """Print a table; ``numeric`` columns are right-aligned."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        drawn.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    console().print(drawn)


def when(time_: datetime | None) -> str:
    """A time in the reader's zone, to the second."""
    return time_.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time_ else ""


def steps(job: Job) -> str:
    """``3/20``; ``20/20`` after success; empty while the total is unknown."""
    progress = job.progress
    done = progress.total_steps if job.state == "SUCCEEDED" else progress.step
    return f"{done}/{progress.total_steps}" if progress.total_steps else ""


def duration(seconds: float) -> str:
    """``8 s``, ``3:05`` or ``1:02:03``."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(metrics: Mapping[str, float]) -> str:
    """Metrics in one line."""
    return "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())


class Meter:
    """Progress bar on stderr; without a terminal, occasional lines."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line: tuple[str, float] = ("", 0.0)
        self._started = time.monotonic()

    def __enter__(self) -> Meter:
        if not self._quiet and sys.stderr.isatty():
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[count]}", markup=False),
                progress.TextColumn("{task.fields[eta]}", markup=False),
                progress.TextColumn("{task.fields[detail]}", style="dim", markup=False),
                console=console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None, count="", eta="", detail="")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(
        self, phase: str, step: int = 0, total: int = 0, eta: float = 0.0, detail: str = ""
    ) -> None:
        """Show progress; total and eta (seconds) are 0 while unknown."""
        if self._quiet:
            return
        count = f"{step}/{total}" if total else (str(step) if step else "")
        left = f"{duration(eta)} left" if eta else ""
        if self._bar:
            self._bar.update(
                self._task,
                description=phase,
                total=total or None,
                completed=step,
                count=count,
                eta=left,
                detail=detail,
            )
            return
        now = time.monotonic()
        last_phase, last_time = self._last_line
        if phase and (phase != last_phase or now - last_time >= _QUIET_SECONDS):
            self._last_line = (phase, now)
            parts = (phase, count, left, detail)
            typer.echo("  ".join(part for part in parts if part), err=True)

    def say(self, text: str) -> None:
        """Print a line on stderr above the bar."""
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False)
        else:
            typer.echo(text, err=True)

    def counted(self, phase: str) -> Any:
        """A callback (done, total) that also estimates the time left."""
        started = time.monotonic()
        first: list[int] = []

        def update(done: int, total: int) -> None:
            first.append(done) if not first else None
            num_new = done - first[0]
            spent = time.monotonic() - started
            eta = spent / num_new * (total - done) if num_new > 0 else 0.0
            self.update(phase, done, total, eta)

        return update

    def job(self, job: Job, prefix: str = "") -> None:
        """Show the progress of a job."""
        progress = job.progress
        step = progress.total_steps if job.state == "SUCCEEDED" else progress.step
        phase = progress.phase or job.state.lower()
        if job.state == "PENDING":
            phase = "waiting for a runner"
        if prefix:
            phase = f"{prefix}: {phase}"
        detail = figures(progress.metrics)
        self.update(phase, step, progress.total_steps, progress.eta_seconds, detail)


@contextmanager
def meter(quiet: bool = False) -> Iterator[Meter]:
    """A progress bar for the length of a ``with`` block."""
    with Meter(quiet) as shown:
        yield shown


def _plain(value: Any) -> Any:
    from cytosynth.client.errors import CytosynthError

    if isinstance(value, CytosynthError):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
