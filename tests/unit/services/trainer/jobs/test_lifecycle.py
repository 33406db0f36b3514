"""Jobs: stored end, cancellation, single takeover, continuation from a checkpoint."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from services.common.database.jobs import Job, LeaseLost
from services.common.errors import Cancelled, FailedPrecondition, Unavailable
from services.common.resource_names import ADAPTERS, JOBS
from services.common.store.artifact_folder import DELETING
from services.common.store.artifacts import ArtifactStore
from services.trainer.jobs.checkpoints import JobCheckpoints
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.lifecycle import run_job, work
from tests.support.jobs import OWNER, leased, write_adapter


def test_a_job_succeeds_with_its_own_id(database, store, settings, task) -> None:
    task(write_adapter)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    done = database.get("local", job.id)
    assert (done.state, done.result) == ("SUCCEEDED", f"adapters/{job.id}")
    assert store.exists("local", ADAPTERS, job.id)


def test_progress_is_stored_with_an_eta(database, store, settings, task) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        for step in range(10):
            ctx.progress("training", step, 20, {"loss": 1.0 / (step + 1), "bad": float("nan")})
            time.sleep(0.03)
        time.sleep(0.3)
        seen.append(database.get("local", ctx.job_id))
        return write_adapter(spec, ctx)

    seen: list[Job] = []
    task(run)
    run_job(leased(database, settings, {}), OWNER, database, store, settings)
    assert (seen[0].phase, seen[0].step, seen[0].total_steps) == ("training", 9, 20)
    assert 0.2 < seen[0].eta_seconds < 3
    assert seen[0].metrics == {"loss": pytest.approx(0.1)}


def test_a_job_that_succeeded_has_done_all_its_steps(database, store, settings, task) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.progress("reading", 19, 20, {})
        return write_adapter(spec, ctx)

    task(run)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    done = database.get("local", job.id)
    assert (done.phase, done.step, done.total_steps) == ("reading", 20, 20)


def test_a_job_of_an_unknown_kind_fails(database, store, settings) -> None:
    job = database.create("local", "of_a_newer_version", {})
    assert work(database, store, settings, threading.Event()) == 1
    assert database.get("local", job.id).state == "FAILED"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (FailedPrecondition("base x", "is wrong", "use y"), "FailedPrecondition", "use y"),
        (ZeroDivisionError("secret /root/path"), "DomainError", "internal error"),
    ],
)
def test_a_failure_is_stored_and_tells_no_secrets(
    database, store, settings, task, error: Exception, kind: str, text: str
) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        raise error

    task(run)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    failed = database.get("local", job.id)
    assert failed.state == "FAILED" and failed.error is not None
    assert failed.error["type"] == kind
    assert text in str(failed.error) and "secret" not in str(failed.error)


def test_cancel_stops_the_job_within_a_step(database, store, settings, task) -> None:
    steps: list[int] = []

    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        for step in range(1000):
            ctx.progress("training", step, 1000, {})
            steps.append(step)
            if step == 3:
                ctx.checkpoints.save({"step": 3}, {"weights": b"x"})
                database.request_cancel("local", ctx.job_id)
            time.sleep(0.02)
        raise AssertionError("it was not cancelled")

    task(run)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    assert database.get("local", job.id).state == "CANCELLED"
    assert len(steps) < 60
    assert store.list("local", JOBS) == [], "no checkpoint may be left"


def test_a_job_put_back_continues_from_its_checkpoint(database, store, settings, task) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        found = ctx.checkpoints.load()
        starts.append(found[0]["step"] if found else 0)
        if found is None:
            ctx.checkpoints.save({"step": 3}, {"a/weights": b"one"})
            ctx.checkpoints.save({"step": 7}, {"a/weights": b"two"})
            raise Unavailable("the generator is away", 0.0)
        assert found[1] == {"a/weights": b"two"}
        return write_adapter(spec, ctx)

    starts: list[int] = []
    task(run)
    database.create("local", "fit_adapter", {})
    assert work(database, store, settings, threading.Event()) == 2
    job = database.list("local")[0]
    assert (job.state, job.attempts, starts) == ("SUCCEEDED", 2, [0, 7])
    assert store.list("local", JOBS) == []


def test_a_finished_job_leaves_no_half_written_checkpoint(database, store, settings, task) -> None:
    task(write_adapter)
    job = leased(database, settings, {})
    # As runners leave them that are killed in the middle of a checkpoint, or of removing one.
    store.new_draft("local", JOBS, f"{job.id}-killed").write("weights", b"x")
    half_gone = store.new_draft("local", JOBS, f"{job.id}-half-gone")
    half_gone.write("weights", b"x")
    half_gone.commit({"parents": []})
    folder = Path(settings.store_uri.removeprefix("file://")) / "tenants/local/jobs"
    (folder / half_gone.id / "manifest.json").rename(folder / half_gone.id / DELETING)
    others = store.new_draft("local", JOBS, "study-of-another")
    others.write("answers", b"x")
    run_job(job, OWNER, database, store, settings)
    assert store.folders("local", JOBS) == [others.id]


def test_a_lost_runner_stops_and_the_next_continues_once(database, store, settings, task) -> None:
    outcomes: list[str] = []

    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        ctx.checkpoints.save({"step": 5}, {})
        taken_over = None
        while taken_over is None:  # a heartbeat may come in between
            database._as_owner(ctx.job_id, OWNER, lease_expires=0.0)  # as if it had been silent
            taken_over = database.lease("runner-2", 60.0)
        try:
            for _ in range(100):
                ctx.progress("training", 1, 2, {})
                time.sleep(0.02)
        except LeaseLost:
            outcomes.append("lost")
            raise
        raise AssertionError("it went on working")

    task(run)
    job = leased(database, settings, {})
    run_job(job, OWNER, database, store, settings)
    assert outcomes == ["lost"]
    taken = database.get("local", job.id)
    assert (taken.state, taken.attempts, taken.error) == ("RUNNING", 2, None)
    assert JobCheckpoints(store, database, taken, "runner-2", 0).load() == ({"step": 5}, {})
    late = JobCheckpoints(store, database, job, OWNER, 0)
    with pytest.raises(LeaseLost):
        late.save({"step": 99}, {})
    assert JobCheckpoints(store, database, taken, "runner-2", 0).load() == ({"step": 5}, {})


def test_a_result_that_is_there_is_not_made_twice(database, store, settings, task) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        raise AssertionError("made twice")

    job = leased(database, settings, {})
    draft = store.new_draft("local", ADAPTERS, job.id)
    draft.write("weights", b"w")
    draft.commit({"parents": []})
    task(run)
    run_job(job, OWNER, database, store, settings)
    assert database.get("local", job.id).result == f"adapters/{job.id}"


def test_a_damaged_checkpoint_starts_anew(database, store, settings, tmp_path: Path) -> None:
    job = leased(database, settings, {})
    checkpoints = JobCheckpoints(store, database, job, OWNER, 0)
    checkpoints.save({"step": 1}, {"weights": b"good"})
    for path in (tmp_path / "store").rglob("weights"):
        path.write_bytes(b"bad")
    again = database.get("local", job.id)
    fresh = JobCheckpoints(ArtifactStore(settings.store_uri), database, again, OWNER, 0)
    assert fresh.load() is None


def test_work_ends_when_there_is_none(database, store, settings) -> None:
    quick = settings.model_copy(update={"runner_idle_seconds": 0.2})
    started = time.monotonic()
    assert work(database, store, quick, threading.Event()) == 0
    assert time.monotonic() - started < 3


def test_cancelled_before_it_ran(database, store, settings, task) -> None:
    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        raise Cancelled()

    task(run)
    job = database.create("local", "fit_adapter", {})
    database.request_cancel("local", job.id)
    assert work(database, store, settings, threading.Event()) == 0
    assert database.get("local", job.id).state == "CANCELLED"
