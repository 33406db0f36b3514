"""A store, a job database, and a job whose work tests set."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from services.common.database.jobs import JobDatabase, migrate
from services.common.resource_names import ADAPTERS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs import lifecycle as jobs


@pytest.fixture
def settings(tmp_path: Path) -> TrainerSettings:
    return TrainerSettings(
        store_uri=f"file://{tmp_path}/store",
        database_url=f"sqlite:///{tmp_path}/jobs.db",
        lease_seconds=2.0,
        heartbeat_seconds=0.06,
        runner_idle_seconds=1.0,
    )


@pytest.fixture
def store(settings: TrainerSettings) -> ArtifactStore:
    return ArtifactStore(settings.store_uri)


@pytest.fixture
def database(settings: TrainerSettings) -> JobDatabase:
    migrate(settings.database_url)
    return JobDatabase(settings.database_url)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch):
    """Sets what a job of kind ``fit_adapter`` does."""

    def use(run: Any) -> None:
        module = types.ModuleType("toy_task")
        module.run = run
        monkeypatch.setitem(sys.modules, "toy_task", module)
        monkeypatch.setitem(jobs.KINDS, "fit_adapter", ("toy_task", ADAPTERS))

    return use
