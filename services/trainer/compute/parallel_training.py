"""Trainings side by side: on CPUs a thread on a core of its own each.

Small models gain nothing from a second core: a step of ResNet-18 at 64 px took 0.28 s on one core
and 0.30 s on two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context

MOST_WORKERS = 8


class Stopped(Exception):
    """Another of the trainings has failed, or a cancel was asked."""


def num_workers(device: str) -> int:
    """How many trainings this process does at a time: one on a GPU, else one a core it may use."""
    import torch

    return 1 if device != "cpu" else min(MOST_WORKERS, torch.get_num_threads())


def run_side_by_side(
    parts: Sequence[Callable[[], None]], workers: int, stop: threading.Event
) -> None:
    """Does all parts, ``workers`` at a time, begun in their order.

    Args:
        parts: What to do.
        workers: 1: one after the other, in the calling thread, with all of its cores.
        stop: Set when a part fails; parts that look at it may raise ``Stopped`` then.

    Raises:
        Exception: What the first part that failed raised, after the others have ended.
    """
    if workers == 1:
        for part in parts:
            part()
        return

    def do(part: Callable[[], None]) -> None:
        if stop.is_set():
            raise Stopped
        try:
            part()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "training", initializer=_take_one_core) as pool:
        # Each part works for the same request as this thread, in a context of its own.
        futures = [pool.submit(copy_context().run, do, part) for part in parts]
        wait(futures, return_when=FIRST_EXCEPTION)
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])


def _take_one_core() -> None:
    import torch

    torch.set_num_threads(1)  # of the calling thread alone
