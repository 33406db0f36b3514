"""Deletes artifacts, unless a job that has not ended needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from services.common import resource_names
from services.common.database.jobs import FAILED, PENDING, RUNNING, Job, JobDatabase
from services.common.errors import FailedPrecondition
from services.common.store.artifacts import ArtifactStore
from services.trainer.jobs.checkpoints import forget_checkpoints
from services.trainer.studies.job import study_id

#: Jobs named in one error, at most.
_MAX_NAMED = 3


def delete_unused(
    store: ArtifactStore,
    database: JobDatabase,
    tenant: str,
    name: str,
    delete: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Calls ``delete`` for an artifact that no pending or running job needs.

    A job that was asked to stop counts as ended. Checkpoints that failed jobs keep of their
    training on the artifact are deleted with it.

    Returns:
        Proof, as ``delete`` gives it.

    Raises:
        FailedPrecondition: If a job needs it, naming the jobs.
    """
    unfinished = [*database.list(tenant, RUNNING), *database.list(tenant, PENDING)]
    using = [job for job in unfinished if _uses(job, name) and not job.cancel_requested]
    if using:
        shown = [f"{job.name} ({job.kind}, {job.state})" for job in using[:_MAX_NAMED]]
        more = [f"{len(using) - _MAX_NAMED} more"] if len(using) > _MAX_NAMED else []
        verb = "needs" if len(using) == 1 else "need"
        raise FailedPrecondition(
            name,
            f"{_and([*shown, *more])} {verb} it",
            f"wait for the end, or cancel (cytosynth cancel {using[0].name}) and delete again",
        )
    proof = delete()
    for job in database.list(tenant, FAILED):
        if job.checkpoint and _uses(job, name):
            forget_checkpoints(store, tenant, job.id)
    return proof


def _uses(job: Job, name: str) -> bool:
    """Whether the job's request names the artifact, or its study made it."""
    if name in _texts(job.spec):
        return True
    id = name.partition("/")[2]
    return job.kind == "study" and id.startswith(f"{study_id(job.spec)}-")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _and(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
