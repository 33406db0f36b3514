"""What holds for every test: no network, no usage reports, one thread per process."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Time on the wall says nothing where files run beside one another.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For ``pytest -n``: a file is one worker's; files that start Ray come one after the other."""
    unit = Path(__file__).parent / "unit"
    for item in items:
        group = item.path.stem if item.path.parent == unit else item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(group))
