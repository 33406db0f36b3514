"""Refused deletion of what a job needs, naming job and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.common.database.jobs import JobDatabase, migrate
from services.common.errors import FailedPrecondition
from services.common.resource_names import ADAPTERS, CLASSIFIERS, DATASETS, JOBS
from services.common.store.artifacts import ArtifactStore
from services.trainer.deletion import delete_unused
from services.trainer.jobs.checkpoints import JobCheckpoints
from services.trainer.studies.job import study_id

STUDY = {"dataset": "datasets/d1", "title": "", "settings": {}, "revisions": {}}


@pytest.fixture
def database(tmp_path: Path) -> JobDatabase:
    url = f"sqlite:///{tmp_path}/jobs.db"
    migrate(url)
    return JobDatabase(url)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(f"file://{tmp_path}/store")
    make(store, DATASETS, "d1")
    make(store, DATASETS, "split", images_of="datasets/d1")
    make(store, ADAPTERS, "a1")
    make(store, CLASSIFIERS, "c1")
    make(store, ADAPTERS, f"{study_id(STUDY)}-draw0")
    return store


def make(store: ArtifactStore, kind: str, id: str, **body: Any) -> None:
    draft = store.new_draft("local", kind, id)
    draft.write("file", b"x")
    draft.commit({"parents": [], "body": body})


NEEDED = [
    (DATASETS, "d1", "fit_adapter", {"dataset": "datasets/d1"}),
    (DATASETS, "d1", "fit_adapter", {"dataset": "datasets/split"}),
    (DATASETS, "d1", "study", STUDY),
    (ADAPTERS, "a1", "fit_classifier", {"synthetic": {"adapter": "adapters/a1"}}),
    (ADAPTERS, f"{study_id(STUDY)}-draw0", "study", STUDY),
    (CLASSIFIERS, "c1", "report", {"arms": [{"classifier": "classifiers/c1"}]}),
]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
@pytest.mark.parametrize(("kind", "id", "job_kind", "spec"), NEEDED)
def test_what_a_job_needs_stays_until_the_job_is_cancelled(
    store: ArtifactStore,
    database: JobDatabase,
    kind: str,
    id: str,
    job_kind: str,
    spec: dict[str, Any],
    state: str,
) -> None:
    job = database.create("local", job_kind, spec)
    if state == "RUNNING":
        assert database.lease("runner", 60.0)
    with pytest.raises(FailedPrecondition) as caught:
        delete_unused(store, database, "local", kind, id)
    assert caught.value.subject == f"{kind}/{id}"
    assert f"{job.name} ({job_kind}, {state}) needs it" in caught.value.problem
    assert f"cytosynth cancel {job.name}" in caught.value.remedy
    assert store.exists("local", kind, id)
    database.request_cancel("local", job.id)
    assert delete_unused(store, database, "local", kind, id)["num_objects"] == 2
    assert not store.exists("local", kind, id)


def test_jobs_of_other_artifacts_tenants_and_ended_ones_do_not_count(
    store: ArtifactStore, database: JobDatabase
) -> None:
    database.create("local", "fit_adapter", {"dataset": "datasets/d2"})
    database.create("other", "fit_adapter", {"dataset": "datasets/d1"})
    ended = database.create("local", "fit_adapter", {"dataset": "datasets/d1"})
    database.request_cancel("local", ended.id)
    delete_unused(store, database, "local", DATASETS, "d1")
    assert not store.exists("local", DATASETS, "split"), "its further splits go with it"


def test_a_refusal_names_a_few_jobs_and_counts_the_others(
    store: ArtifactStore, database: JobDatabase
) -> None:
    for _ in range(5):
        database.create("local", "fit_adapter", {"dataset": "datasets/d1"})
    with pytest.raises(
        FailedPrecondition, match=r"\), jobs/\S+ \(\S+ PENDING\) and 2 more need it"
    ):
        delete_unused(store, database, "local", DATASETS, "d1")


def test_checkpoints_of_failed_jobs_go_with_the_dataset(
    store: ArtifactStore, database: JobDatabase
) -> None:
    database.create("local", "fit_adapter", {"dataset": "datasets/d1"})
    job = database.lease("runner", 60.0)
    assert job is not None
    JobCheckpoints(store, database, job, "runner", 0).save({"step": 1}, {"weights": b"w"})
    database.fail(job.id, "runner", {"type": "DomainError", "message": "no room"})
    assert len(store.folders("local", JOBS)) == 1
    delete_unused(store, database, "local", ADAPTERS, "a1")
    assert len(store.folders("local", JOBS)) == 1
    delete_unused(store, database, "local", DATASETS, "d1")
    assert store.folders("local", JOBS) == []
