"""Carries out parts of a job side by side, in one-thread processes.

Small models gain nothing from a second core: a step of ResNet-18 at 64 px took 0.28 s on one core
and 0.30 s on two. Processes share nothing of torch's process-wide state: random generator,
attention kernels, ``torch.nn`` as libraries patch it while they load. A part therefore gives the
same figures whatever runs beside it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event, Lock
from typing import Any, Protocol

from services.common.errors import DomainError, Unavailable
from services.common.storage_errors import storage_error
from services.trainer.compute.training_run import Interrupted

MAX_PROCESSES = 8
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class Part(Protocol):
    """A piece of work that can be pickled."""

    @property
    def name(self) -> str:
        """Unique among the parts of a job."""
        ...

    @property
    def after(self) -> Sequence[str]:
        """Names of the parts that must be finished before this one begins."""
        ...


class Stopped(Interrupted):
    """Another part has failed, or the job is to end."""


@dataclass(frozen=True)
class Link:
    """A worker process's connection to the process that started it."""

    _messages: Connection
    _sending: Lock
    _stop: Event
    _drain: Event

    def send(self, message: object) -> None:
        """Hands a message (pickled) to the starter's ``supervise``."""
        with self._sending:
            self._messages.send(message)

    def check(self) -> None:
        """Raises Stopped if the part must end at once."""
        if self._stop.is_set():
            raise Stopped

    def drain_wanted(self) -> bool:
        """Whether the part must save its state and end."""
        return self._drain.is_set()


def num_workers(device: str) -> int:
    """Number of concurrent parts: one on a GPU, else one per core."""
    import torch

    return 1 if device != "cpu" else min(MAX_PROCESSES, torch.get_num_threads())


def compute_with_one_thread() -> None:
    """Limits a worker process to one thread: others have the cores."""
    import torch

    torch.set_num_threads(1)


def run_in_processes(
    parts: Sequence[Part],
    begin: Callable[[Link], Callable[[Any], None]],
    num_processes: int,
    supervise: Callable[[list[Any]], bool],
) -> None:
    """Carries all parts out, ``num_processes`` at a time.

    The first part whose predecessors are finished begins next.

    Args:
        parts: Parts in order; pickled, like ``begin``.
        begin: Called once in each process; gives the function that carries a part out.
        num_processes: How many processes; each is used for many parts.
        supervise: Called here several times a second with the messages sent since. Returns
            whether the parts must save their state and end; may raise to stop them all.

    Raises:
        Exception: What ``supervise`` or the first part that failed raised, after all have ended.
        Unavailable: If a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    stop, drain = context.Event(), context.Event()
    link = Link(writer, context.Lock(), stop, drain)
    waiting, finished = list(parts), set[str]()
    running: dict[Future[None], Part] = {}
    error: BaseException | None = None

    def failed(caught: BaseException) -> None:
        nonlocal error
        if error is None or isinstance(error, Interrupted):
            error = caught
        if not (drain.is_set() and isinstance(caught, Interrupted)):
            stop.set()

    with ProcessPoolExecutor(num_processes, context, _begin_process, (link, begin)) as pool:
        while running or (waiting and error is None):
            try:
                if error is None:
                    ready = _ready(waiting, finished, num_processes - len(running))
                    if not ready and not running:
                        raise ValueError(f"{waiting[0].name} waits for parts that are not there")
                    for part in ready:
                        waiting.remove(part)
                        running[pool.submit(_carry_out, part)] = part
                if supervise(_received(reader)):
                    drain.set()
            except BaseException as caught:
                failed(caught)
            for future in [each for each in running if each.done()]:
                part = running.pop(future)
                if (problem := future.exception()) is None:
                    finished.add(part.name)
                else:
                    failed(problem)
    reader.close()
    writer.close()
    if isinstance(error, BrokenProcessPool):
        reason = "a training process was killed, perhaps for want of memory"
        raise Unavailable(reason, 10.0) from error
    if error is not None:
        raise error


def _ready(waiting: list[Part], finished: set[str], most: int) -> list[Part]:
    return [part for part in waiting if finished.issuperset(part.after)][:most]


def _received(reader: Connection) -> list[Any]:
    """Messages that came within the poll interval, oldest first."""
    messages: list[Any] = []
    seconds = _POLL_SECONDS
    while len(messages) < 1000 and reader.poll(seconds):
        messages.append(reader.recv())
        seconds = 0.0
    return messages


_work: Callable[[Any], None]
"""In a worker process: carries a part out."""


def _begin_process(link: Link, begin: Callable[[Link], Callable[[Any], None]]) -> None:
    global _work
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of the parts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work = partial(_reporting, begin(link), link)


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _carry_out(part: Part) -> None:
    _work(part)


def _reporting(work: Callable[[Any], None], link: Link, part: Part) -> None:
    link.check()
    try:
        work(part)
    except (DomainError, Interrupted):
        raise
    except Exception as error:
        # Not every exception can be pickled, and one that cannot would break the pool.
        known = storage_error(error)
        raise known or RuntimeError(f"{part.name}: {type(error).__name__}: {error}") from error
