"""Studies small enough for tests."""

from __future__ import annotations

import json
from typing import Any

from services.common.store.artifacts import ArtifactStore
from services.trainer.studies import job as study
from services.trainer.studies.recipe import ARMS, REAL_PLUS_FURTHER_REAL
from tests.support.few_shot import TENANT, upload_dataset

QUICK = {
    "models": ["resnet18", "clip"],
    "arms": [arm for arm in ARMS if arm != REAL_PLUS_FURTHER_REAL],
    "num_per_class": [2, 4],
    "num_draws": 2,
    "shots": 3,
    "max_test_per_class": 5,
    "base": "tiny",
    "clip_base": "tiny-clip",
    "num_steps": 2,
    "adapter_steps": 2,
}


def begin(store: ArtifactStore, settings: Any, **changes: Any) -> dict[str, Any]:
    """A validated request."""
    spec = {"dataset": upload_dataset(store, settings), "settings": QUICK | changes, "title": "T"}
    return study.validate(spec, store, TENANT, settings)


def read_report(store: ArtifactStore, report: str) -> dict[str, Any]:
    return json.loads(store.read(TENANT, "reports", report, "report.json"))
