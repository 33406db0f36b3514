"""Versions in memory: loaded once, side by side, evicted by last use."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from services.classifier.model_cache import ModelCache
from services.common.errors import DataLoss


class Loads:
    """Counts what is loaded; holds some versions up and fails others."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.go = threading.Event()

    def __call__(self, tenant: str, id: str) -> Any:
        self.loaded.append(id)
        if id.startswith("slow"):
            assert self.go.wait(30)
        if id.startswith("damaged"):
            raise DataLoss("its weights are damaged")
        return f"{tenant}/{id}"


@pytest.fixture
def loads() -> Loads:
    return Loads()


def test_only_the_most_recently_used_versions_stay_loaded(loads: Loads) -> None:
    cache = ModelCache(loads, max_models=2)
    for id in ("one", "two", "one", "three", "one", "two"):
        cache.load("lab", id).result(30)
    assert loads.loaded == ["one", "two", "three", "two"]
    assert cache.num_loaded == 2 and cache.find("lab", "three") is None


def test_finding_a_version_counts_as_use(loads: Loads) -> None:
    cache = ModelCache(loads, max_models=2)
    for id in ("one", "two"):
        cache.load("lab", id).result(30)
    assert cache.find("lab", "one") == "lab/one"
    cache.load("lab", "three").result(30)
    assert cache.find("lab", "one") is not None and cache.find("lab", "two") is None


def test_callers_of_a_version_share_one_load(loads: Loads) -> None:
    cache = ModelCache(loads, max_models=2)
    both = [cache.load("lab", "slow") for _ in range(2)]
    loads.go.set()
    assert [each.result(30) for each in both] == ["lab/slow"] * 2
    assert loads.loaded == ["slow"]


def test_a_slow_load_holds_no_other_version_up(loads: Loads) -> None:
    cache = ModelCache(loads, max_models=4)
    cache.load("lab", "quick").result(30)
    slow = cache.load("lab", "slow")
    assert cache.find("lab", "quick") is not None
    assert cache.load("lab", "other").result(30) == "lab/other"
    assert not slow.done()
    loads.go.set()
    assert slow.result(30) == "lab/slow"


def test_a_load_that_fails_is_tried_again_by_the_next_caller(loads: Loads) -> None:
    cache = ModelCache(loads, max_models=2)
    for _ in range(2):
        with pytest.raises(DataLoss):
            cache.load("lab", "damaged").result(30)
    assert loads.loaded == ["damaged", "damaged"] and cache.num_loaded == 0


def test_tenants_do_not_share_versions(loads: Loads) -> None:
    cache = ModelCache(loads, max_models=4)
    cache.load("lab", "one").result(30)
    assert cache.find("other", "one") is None
