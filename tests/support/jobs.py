"""Jobs leased from a database, and the least work for an artifact."""

from __future__ import annotations

from typing import Any

from services.common.database.jobs import Job, JobDatabase
from services.common.resource_names import ADAPTERS
from services.trainer.config import TrainerSettings
from services.trainer.jobs.context import JobContext

OWNER = "runner-1"


def leased(database: JobDatabase, settings: TrainerSettings, spec: dict[str, Any]) -> Job:
    database.create("local", "fit_adapter", spec)
    job = database.lease(OWNER, settings.lease_seconds)
    assert job is not None
    return job


def write_adapter(spec: dict[str, Any], ctx: JobContext) -> str:
    draft = ctx.store.new_draft(ctx.tenant, ADAPTERS, ctx.artifact_id)
    draft.write("weights", b"w")
    draft.commit({"parents": []})
    return ctx.artifact_id
