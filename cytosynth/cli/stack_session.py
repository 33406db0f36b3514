"""Services for one command: those that are up, or its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller
from cytosynth.cli.options import resolve

if TYPE_CHECKING:
    from cytosynth.cli.pipeline_view import PhaseView
    from cytosynth.client import Client
    from cytosynth.stack.state import StackInfo

LOOPBACK = ("127.0.0.1", "localhost")


@contextmanager
def long_running(keep_stack: bool, *, quiet: bool) -> Iterator[tuple[Client, PhaseView, float]]:
    """Services for a long command: client, phase view, seconds of the start.

    Services that answer are used and left alone. Otherwise a local stack is started, on the
    port of ``--address`` if one is given, and stopped at the end unless ``keep_stack``. After
    Ctrl-C one line says what became of the job.
    """
    from cytosynth.cli.pipeline_view import PhaseView

    with show.meter(quiet=quiet) as meter:
        view = PhaseView(meter)
        stops = [False]
        try:
            with _services(keep_stack, meter, stops) as (client, start_seconds):
                if start_seconds:
                    view.end("start_services", start_seconds)
                yield client, view, start_seconds
        except KeyboardInterrupt:
            typer.echo(f"cytosynth: interrupted; {_consequence(view.job_name, *stops)}", err=True)
            raise typer.Exit(130) from None


def _consequence(job_name: str, stack_stopped: bool) -> str:
    if not job_name:
        return "the same command goes on from here"
    if stack_stopped:
        return f"{job_name} waits with its checkpoint; the same command goes on from there"
    return (
        f"{job_name} goes on; the same command follows it again, "
        f"`cytosynth cancel {job_name}` ends it"
    )


@contextmanager
def _services(keep: bool, meter: show.Meter, stops: list[bool]) -> Iterator[tuple[Client, float]]:
    """Client and start seconds; sets ``stops[0]`` for a stack that ends here."""
    from cytosynth.client import DEFAULT_ADDRESS, Client
    from cytosynth.stack import stack as local_stack

    address = caller().address
    try:
        target, arguments = resolve()  # Refuses a bad address or certificate before any start.
    except local_stack.NoStack:
        target = DEFAULT_ADDRESS
    else:
        with Client(target, **arguments) as client:
            if _answers(client):
                yield client, 0.0
                return
            if address is not None and target.rpartition(":")[0] not in LOOPBACK:
                client.check()

    started = time.monotonic()
    info = _start(address, target, meter)
    seconds = time.monotonic() - started
    stops[0] = not keep
    try:
        target, arguments = resolve(info.address)
        with Client(target, **arguments) as client:
            yield client, seconds
    finally:
        if keep:
            meter.say(f"The services stay up at {info.address}; `cytosynth down` stops them.")
        else:
            meter.update("stopping services; jobs save a checkpoint")
            with _uninterrupted():
                local_stack.down()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C; half a stop would leave processes and lose checkpoints."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answers(client: Client) -> bool:
    from cytosynth.client import CytosynthError

    try:
        client.check(2.0)
        client.capabilities()
    except CytosynthError as error:
        if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"):
            return False
        raise
    return True


def _start(address: str | None, target: str, meter: show.Meter) -> StackInfo:
    from cytosynth.stack import stack as local_stack

    def on_progress(activity: str, seconds: float) -> None:
        meter.update(f"starting services: {activity}", detail=show.duration(seconds))

    port = int(target.rpartition(":")[2])
    try:
        return local_stack.up(port, on_progress=on_progress)
    except local_stack.PortTaken as taken:
        if address is not None:
            raise
        meter.say(f"port {port} is taken; using {taken.free_port}")
        return local_stack.up(taken.free_port, on_progress=on_progress)
