"""Deletes artifacts that no job and no alias needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from services.common import resource_names
from services.common.database.jobs import FAILED, PENDING, RUNNING, Job, JobDatabase
from services.common.deletions import delete_artifact
from services.common.errors import FailedPrecondition
from services.common.resource_names import ALIASES, CLASSIFIERS, DATASETS
from services.common.store.artifacts import ArtifactStore, DeletionProof
from services.trainer.datasets.reading import delete_dataset, splits_of
from services.trainer.jobs.checkpoints import forget_checkpoints
from services.trainer.studies.job import study_id

#: Jobs named in one error, at most.
_MAX_NAMED = 3


def delete_unused(
    store: ArtifactStore, database: JobDatabase, tenant: str, kind: str, id: str
) -> DeletionProof:
    """Deletes an artifact, unless an alias or an unfinished job needs it.

    A job that was asked to stop counts as ended. Checkpoints that failed jobs keep of their
    training on the artifact are deleted with it.

    Raises:
        FailedPrecondition: If it is needed, naming the jobs or the alias.
        NotFound: If there is no such artifact.
    """
    name = resource_names.build(kind, id)
    names = {name, *splits_of(store, tenant, name)} if kind == DATASETS else {name}
    if kind == CLASSIFIERS:
        _refuse_aliased(database, tenant, name)
    _refuse_needed(database, tenant, name, names)
    if kind == DATASETS:
        proof = delete_dataset(store, database, tenant, id)
    else:
        proof = delete_artifact(store, database, tenant, kind, id)
    for job in database.list(tenant, FAILED):
        if job.checkpoint and _uses(job, names):
            forget_checkpoints(store, tenant, job.id)
    return proof


def _refuse_aliased(database: JobDatabase, tenant: str, name: str) -> None:
    for alias in database.aliases.list(tenant):
        if resource_names.build(CLASSIFIERS, alias.classifier_id) == name:
            raise FailedPrecondition(
                name,
                f"{resource_names.build(ALIASES, alias.alias)} points at it",
                f"move the alias with `cytosynth alias set {alias.alias} classifiers/…`, or "
                f"remove it with `cytosynth alias delete {alias.alias}`",
            )


def _refuse_needed(database: JobDatabase, tenant: str, name: str, names: Collection[str]) -> None:
    unfinished = [*database.list(tenant, RUNNING), *database.list(tenant, PENDING)]
    using = [job for job in unfinished if _uses(job, names) and not job.cancel_requested]
    if not using:
        return
    shown = [f"{job.name} ({job.kind}, {job.state})" for job in using[:_MAX_NAMED]]
    if len(using) > _MAX_NAMED:
        shown.append(f"{len(using) - _MAX_NAMED} more")
    verb = "needs" if len(using) == 1 else "need"
    raise FailedPrecondition(
        name,
        f"{_and(shown)} {verb} it",
        f"wait for the end, or cancel with `cytosynth cancel {using[0].name}` and delete again",
    )


def _uses(job: Job, names: Collection[str]) -> bool:
    """Whether the request names an artifact, or the job's study made one."""
    if any(text in names for text in _texts(job.spec)):
        return True
    if job.kind != "study":
        return False
    prefix = f"{study_id(job.spec)}-"
    return any(name.partition("/")[2].startswith(prefix) for name in names)


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
