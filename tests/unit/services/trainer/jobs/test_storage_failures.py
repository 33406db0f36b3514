"""Jobs on a full disk: checkpoints kept, nothing half-written, and continuation."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from services.common.database.jobs import Job, JobDatabase
from services.common.errors import DomainError, ResourceExhausted, Unavailable
from services.common.resource_names import ADAPTERS, JOBS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs import lifecycle
from services.trainer.jobs.checkpoints import JobCheckpoints, sweep_checkpoints
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.lifecycle import run_job, work
from tests.support.full_disk import Refused, fill, small_disk
from tests.support.jobs import OWNER, leased, write_adapter

FULL = [errno.ENOSPC, errno.EDQUOT]
FAILURES = [*FULL, errno.EROFS, errno.EACCES, errno.EIO]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Refused:
    """A store that refuses writes on demand; jobs wait for it briefly."""
    monkeypatch.setattr(lifecycle, "MAX_PAUSE_SECONDS", 0.05)
    return Refused(monkeypatch, tmp_path / "store", errno.ENOSPC)


def error_of(job: Job) -> DomainError:
    assert job.error is not None
    return DomainError.from_dict(job.error)


@pytest.mark.parametrize("number", FAILURES)
def test_a_checkpoint_that_cannot_be_written_costs_neither_the_job_nor_the_one_before(
    database, store, settings, task, refused: Refused, number: int
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.checkpoints.save({"step": 1}, {"weights": b"one"})
        refused.on, refused.error = True, OSError(number, "as asked")
        ctx.checkpoints.save({"step": 2}, {"weights": b"two"})
        refused.on = False
        ctx.progress("training", 3, 4, {"loss": 0.5})
        seen.append(ctx.checkpoints.load())
        return write_adapter(spec, ctx)

    seen: list[Any] = []
    task(run)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    assert seen == [({"step": 1}, {"weights": b"one"})]
    done = database.get("local", job.id)
    assert (done.state, done.attempts) == ("SUCCEEDED", 1)
    assert done.metrics == {"loss": 0.5, "checkpoints_missed": 1.0}
    assert store.folders("local", JOBS) == []


def test_a_checkpoint_that_the_database_cannot_note_costs_nothing(
    database, store, settings, task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.checkpoints.save({"step": 1}, {"weights": b"one"})
        with monkeypatch.context() as patch:
            patch.setattr(database, "save_checkpoint", away)
            ctx.checkpoints.save({"step": 2}, {"weights": b"two"})
        again = database.get("local", ctx.job_id)
        seen.append(JobCheckpoints(store, database, again, OWNER, 0).load())
        return write_adapter(spec, ctx)

    def away(*_: str) -> None:
        raise OSError(errno.EIO, "the database is away")

    seen: list[Any] = []
    task(run)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    assert seen == [({"step": 1}, {"weights": b"one"})]
    assert database.get("local", job.id).state == "SUCCEEDED"
    assert store.folders("local", JOBS) == []


def test_a_draining_job_does_not_wait_for_room(database, store, settings, task, refused) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.checkpoints.save({"step": 1}, {})
        refused.on = True
        stop.set()
        for step in range(2, 500):
            ctx.progress("training", step, 500, {})
            if ctx.checkpoints.due():
                ctx.checkpoints.save({"step": step}, {})
            threading.Event().wait(0.01)
        raise AssertionError("it was not drained")

    task(run)
    stop = threading.Event()
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings, stop)
    left = database.get("local", job.id)
    assert left.state == "PENDING"
    assert JobCheckpoints(store, database, left, OWNER, 0).load() == ({"step": 1}, {})


def test_a_job_waits_for_room_and_goes_on_from_its_checkpoint(
    database, store, settings, task, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        starts.append(ctx.checkpoints.load())
        if len(starts) == 1:
            ctx.checkpoints.save({"step": 7}, {})
        refused.on = len(starts) < 3
        return write_adapter(spec, ctx)

    def heartbeat(id: str, owner: str, seconds: float, progress: Any) -> Any:
        phases.add(progress.phase)
        return renew(id, owner, seconds, progress)

    starts: list[Any] = []
    phases: set[str] = set()
    renew = database.heartbeat
    monkeypatch.setattr(database, "heartbeat", heartbeat)
    monkeypatch.setattr(lifecycle, "MAX_PAUSE_SECONDS", 0.3)
    task(run)
    database.create("local", "fit_adapter", {})
    assert work(database, store, settings, threading.Event()) == 3
    job = database.list("local")[0]
    assert (job.state, job.attempts) == ("SUCCEEDED", 3)
    assert starts == [None, ({"step": 7}, {}), ({"step": 7}, {})]
    assert "waiting: the server's storage is full" in phases
    assert store.folders("local", JOBS) == []


@pytest.mark.parametrize("number", FAILURES)
def test_a_job_without_room_fails_in_the_end_and_the_same_request_goes_on(
    database, store, settings, task, refused: Refused, number: int
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        starts.append(ctx.checkpoints.load())
        if len(starts) == 1:
            ctx.checkpoints.save({"step": 7}, {})
        if ctx.job_id == failing.id:
            ctx.store.new_draft(ctx.tenant, ADAPTERS, ctx.artifact_id).write("first", b"file")
            refused.on, refused.error = True, OSError(number, "as asked", "/secret/path")
        try:
            return write_adapter(spec, ctx)
        finally:
            refused.on = False

    starts: list[Any] = []
    task(run)
    failing = database.create("local", "fit_adapter", {"of": "a"})
    assert work(database, store, settings, threading.Event()) == 4
    failed = database.get("local", failing.id)
    assert failed.state == "FAILED"
    error = error_of(failed)
    assert "storage" in error.message and "secret" not in error.message
    assert error.code in ("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "UNAVAILABLE")
    assert (number in FULL) == isinstance(error, ResourceExhausted)
    assert store.folders("local", ADAPTERS) == [], "nothing half-written"

    del starts[:]
    other = database.create("local", "fit_adapter", {"of": "another"})
    same = database.create("local", "fit_adapter", {"of": "a"})
    assert work(database, store, settings, threading.Event()) == 2
    assert starts == [None, ({"step": 7}, {})]
    assert {database.get("local", job.id).state for job in (other, same)} == {"SUCCEEDED"}
    assert store.folders("local", JOBS) == []


def test_a_cancel_ends_the_wait_for_room(
    database, store, settings, task, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.checkpoints.save({"step": 7}, {})
        refused.on = True
        database.request_cancel("local", ctx.job_id)
        return write_adapter(spec, ctx)

    monkeypatch.setattr(lifecycle, "MAX_PAUSE_SECONDS", 60.0)
    task(run)
    job = leased(database, settings, {})
    started = time.monotonic()
    run_job(job, OWNER, database, store, settings)
    assert time.monotonic() - started < 30
    assert database.get("local", job.id).state == "CANCELLED"
    assert store.folders("local", JOBS) == []


def test_the_sweep_takes_checkpoints_of_ended_jobs_only(database, store, settings, task) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.checkpoints.save({"step": 7}, {})
        raise Unavailable("the generator is away", 0.0)

    task(run)
    failed = database.create("local", "fit_adapter", {})
    assert work(database, store, settings, threading.Event()) == 4
    assert database.get("local", failed.id).state == "FAILED"
    running = leased(database, settings, {"of": "another"})
    JobCheckpoints(store, database, running, OWNER, 0).save({"step": 1}, {})
    store.new_draft("local", JOBS, "study-of-another").write("answers", b"x")
    assert sweep_checkpoints(store, database, 3600) == 0
    assert sweep_checkpoints(store, database, -1) == 1
    left = store.folders("local", JOBS)
    assert [id.startswith(running.id) for id in left] == [True, False]


def test_a_job_on_a_disk_that_is_really_full(
    database: JobDatabase,
    settings: TrainerSettings,
    task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        found = ctx.checkpoints.load()
        starts.append(found[0]["step"] if found else 0)
        if len(starts) == 1:
            ctx.checkpoints.save({"step": 1}, {"weights": b"w" * 50_000})
            ballast.append(fill(disk))
            ctx.checkpoints.save({"step": 2}, {"weights": b"w" * 50_000})
        if len(starts) == 3:
            ballast[0].unlink()
        draft = ctx.store.new_draft(ctx.tenant, ADAPTERS, ctx.artifact_id)
        draft.write("weights", b"w" * 100_000)
        draft.commit({"parents": []})
        return ctx.artifact_id

    starts: list[int] = []
    ballast: list[Path] = []
    monkeypatch.setattr(lifecycle, "MAX_PAUSE_SECONDS", 0.05)
    task(run)
    with small_disk(tmp_path / "disk", 512 * 1024) as disk:
        store = ArtifactStore(f"file://{disk}/store")
        job = database.create("local", "fit_adapter", {})
        assert work(database, store, settings, threading.Event()) == 3
        assert starts == [0, 1, 1]
        assert database.get("local", job.id).state == "SUCCEEDED"
        assert store.read("local", ADAPTERS, job.id, "weights") == b"w" * 100_000
        assert store.folders("local", JOBS) == []
