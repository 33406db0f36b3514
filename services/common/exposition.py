"""Series of our processes, for Prometheus: prometheus_client in multiprocess mode.

Every process of a machine or pod writes its series into memory-mapped files of one folder. The one
that holds the metrics port answers for all::

    Classifier ─┐
    Trainer    ─┼─▶ folder/*.db ─▶ the one with the port ─▶ /metrics
    JobRunner  ─┘

A process takes a place of its role, such as ``classifier-0``, which names its files. The next
process in that place goes on counting where this one ended, so counters never go back. There are
only as many files as processes ran at a time. A file lock holds the place. The kernel frees the
lock with its process, and readers leave out gauges of processes that have ended.

All metrics are made with ``registry=None``: files are what is exported.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from services.common.settings import CommonSettings

GAUGE_OF_ALL: Final = "sum"
"""Multiprocess mode of a gauge that all processes have a part of."""
GAUGE_OF_ONE: Final = "mostrecent"
"""Multiprocess mode of a gauge that one process knows: the last value set is right."""
_PREFIXES = ("counter", "histogram", f"gauge_{GAUGE_OF_ALL}", f"gauge_{GAUGE_OF_ONE}")
_FILE_BYTES = 1 << 20
"""Room for some 4000 series; sparse files beyond."""
_RETRY_SECONDS = 3.0
_LOCK_TRIES = 5
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_locks: list[int] = []
"""Open files whose locks this process holds until it ends."""
logger = logging.getLogger("cytosynth.exposition")


def expose(role: str, settings: CommonSettings) -> None:
    """Exports the series of this process as the settings say; raises nothing.

    Must come before the first value of any metric.

    Args:
        role: What this process is, for example "classifier"; letters and hyphens.
        settings: Its ``metrics_dir`` and ``metrics_port`` are read.
    """
    if settings.metrics_dir is None:
        return
    try:
        write_series(role, settings.metrics_dir)
    except OSError as error:  # calls matter more than their count
        logger.warning("series are not exported: %s", error)
        return
    if settings.metrics_port:
        serve_series(settings.metrics_dir, settings.metrics_host, settings.metrics_port)


def write_series(role: str, folder: Path) -> None:
    """Lets the metrics of this process write files in a folder.

    Raises:
        OSError: The folder cannot be written, or is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = _take_place(role, folder)
    for stale in folder.glob(f"gauge_*_{place}.db"):
        stale.unlink()
    for prefix in _PREFIXES:
        _allocate(folder / f"{prefix}_{place}.db")
    # Only in this process, so never before it starts Ray: Ray's agents use prometheus_client too.
    os.environ[_FOLDER_VARIABLE] = str(folder)
    # prometheus_client's own pull request 509 and its docstring name this as the way to other
    # file names than the process id, "at your own risk": names must differ, which the lock ensures.
    values.ValueClass = values.MultiProcessValue(lambda: place)


def serve_series(folder: Path, host: str, port: int) -> None:
    """Answers for all processes of the folder.

    Begins as soon as no other process holds the port, and returns at once.
    """
    registry = CollectorRegistry()
    registry.register(FolderCollector(folder))

    def serve() -> None:
        said = errno.EADDRINUSE  # another process of ours has the port: nothing to tell
        while True:
            try:
                start_http_server(port, host, registry)
                return
            except OSError as error:
                if error.errno not in (said, errno.EADDRINUSE):
                    logger.warning("series cannot be served on %s:%d: %s", host, port, error)
                    said = error.errno or said
            time.sleep(_RETRY_SECONDS)

    threading.Thread(target=serve, name="metrics", daemon=True).start()


def clear_series(folder: Path) -> None:
    """Removes the files of processes that have all ended."""
    for pattern in ("*.db", "*.lock"):
        for path in folder.glob(pattern):
            path.unlink()


class FolderCollector(Collector):
    """Merges the files of a folder; of gauges, those of running processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unreadable: set[Path] = set()

    def collect(self) -> Iterable[Metric]:
        """The series of all processes."""
        paths = sorted(self._folder.glob("*.db"))
        running = {place: _runs(self._folder, place) for place in {*map(_place_of, paths)}}
        paths = [
            path for path in paths if running[_place_of(path)] or not path.name.startswith("gauge_")
        ]
        try:
            return _merged(paths)
        except Exception:  # one such file would keep all others from Prometheus
            return _merged([path for path in paths if self._is_readable(path)])

    def _is_readable(self, path: Path) -> bool:
        try:
            _merged([path])
        except Exception:
            if path not in self._unreadable:
                logger.exception("%s cannot be read; its series are left out", path.name)
                self._unreadable.add(path)
            return False
        return True


def _merged(paths: list[Path]) -> Iterable[Metric]:
    return list(MultiProcessCollector.merge([*map(str, paths)]))


def _place_of(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def _take_place(role: str, folder: Path) -> str:
    """Locks the first free place of a role until this process ends."""
    for number in count():
        place = f"{role}-{number}"
        lock = os.open(folder / f"{place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(_LOCK_TRIES):  # a reader may hold it for a moment, see _runs
            if _locked(lock, fcntl.LOCK_EX):
                _locks.append(lock)
                return place
            time.sleep(0.01)
        os.close(lock)
    raise AssertionError


def _runs(folder: Path, place: str) -> bool:
    """Whether a process holds the place."""
    try:
        lock = os.open(folder / f"{place}.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _locked(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _locked(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _allocate(path: Path) -> None:
    """Makes a file of zeros whose blocks exist before readers see it.

    An empty file makes prometheus_client's reader fail (its issue 1199); a write into a hole of a
    full disk would end the process by a signal.
    """
    if path.exists() and path.stat().st_size:
        return
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    draft.replace(path)
