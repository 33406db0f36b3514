"""Rules for all tests: no network, no usage reports, single-threaded processes."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests call servers of their own on loopback; tests of proxies name one themselves.
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

# Time on the wall says nothing where files run beside one another.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


LONGEST = (
    "tests/contract",
    "tests/unit/services/trainer/studies/workers/test_worker.py",
    "tests/unit/services/trainer/studies/test_job.py",
    "tests/unit/pretraining/test_pretraining.py",
    "tests/unit/services/trainer/studies/test_page.py",
)
"""Begun first, so that at the end no worker is left alone with one of them."""


class WholeFiles(LoadScopeScheduling):
    """Scheduler that gives each file, with its fixtures, to one worker.

    Files that start Ray run one after the other.

    ``--dist loadgroup`` would do, but pytest-xdist 3.8 cannot name groups under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """The file of a unit test; the kind of any other test."""
    file = PurePosixPath(nodeid.split("::")[0])
    return str(file) if file.parts[1] == "unit" else "/".join(file.parts[:2])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """For ``pytest -n``."""
    return WholeFiles(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files keep their order but for the longest."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(scope_of(item.nodeid), len(places)))
