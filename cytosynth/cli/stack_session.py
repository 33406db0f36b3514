"""Services for the length of one command: the ones that are up, or our own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cytosynth.cli import show
from cytosynth.cli.options import resolve

if TYPE_CHECKING:
    from cytosynth.client import Client
    from cytosynth.stack.state import StackInfo

LOOPBACK = ("127.0.0.1", "localhost")


@contextmanager
def services(address: str | None, keep: bool, meter: show.Meter) -> Iterator[tuple[Client, float]]:
    """A client of running services and the seconds it took to start them (0 if they were up).

    Services that answer are used and left alone. Otherwise a local stack is started, on the
    port of ``address`` if one is given, and stopped at the end unless ``keep``.
    """
    from cytosynth.client import DEFAULT_ADDRESS, Client
    from cytosynth.stack import stack as local_stack

    try:
        target, arguments = resolve(address)
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
    try:
        target, arguments = resolve(info.address)
        with Client(target, **arguments) as client:
            yield client, seconds
    finally:
        if keep:
            meter.say(f"The services stay up at {info.address}; `cytosynth down` stops them.")
        else:
            meter.update("stopping services")
            local_stack.down()


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
