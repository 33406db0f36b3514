"""Series of the test's own process, and of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from services.common import exposition
from services.common.exposition import FolderCollector, write_series


def series(folder: Path) -> dict[str, float]:
    """All series of a folder."""
    registry = CollectorRegistry()
    registry.register(FolderCollector(folder))
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> dict[str, float]:
    """Series of Prometheus's text format."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@contextmanager
def own_series(folder: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """Lets this process write series, and reads them.

    Labels must be such as no test of the process used before.
    """
    before = exposition.values.ValueClass
    write_series("test", folder)
    try:
        yield lambda: series(folder)
    finally:
        exposition.values.ValueClass = before
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
