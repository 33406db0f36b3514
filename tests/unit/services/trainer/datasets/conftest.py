"""A store and its settings, fresh for every test of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings


@pytest.fixture
def settings(tmp_path: Path) -> TrainerSettings:
    """Settings with everything below the test's own folder."""
    return TrainerSettings(
        store_uri=f"file://{tmp_path}/store", database_url=f"sqlite:///{tmp_path}/jobs.db"
    )


@pytest.fixture
def store(settings: TrainerSettings) -> ArtifactStore:
    """The store of the settings."""
    return ArtifactStore(settings.store_uri)
