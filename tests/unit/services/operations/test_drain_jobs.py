"""A drain: jobs saved and returned, none taken up, no step lost."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from services.common.database.jobs import Job, JobDatabase, migrate
from services.common.resource_names import ADAPTERS
from services.common.store.artifacts import ArtifactStore
from services.operations import drain_jobs
from services.trainer.config import TrainerSettings
from services.trainer.jobs import lifecycle as jobs
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.draining import Drained, DrainRequest, stop_by_file
from services.trainer.jobs.lifecycle import work

STEPS = 60


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerSettings:
    url = f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", url)
    return TrainerSettings(
        store_uri=f"file://{tmp_path}/store",
        database_url=url,
        lease_seconds=60.0,
        heartbeat_seconds=0.06,
        checkpoint_seconds=3600.0,  # none is ever due: those that are saved are the drain's
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
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every step that the toy job does, whichever runner does it."""
    done: list[int] = []

    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        found = ctx.checkpoints.load()
        total = found[0]["total"] if found else 0
        for step in range(found[0]["step"] if found else 0, STEPS):
            time.sleep(0.02)
            total += step
            done.append(step)
            if spec["checkpoints"] and ctx.checkpoints.due():
                ctx.checkpoints.save({"step": step + 1, "total": total}, {})
            ctx.progress("training", step + 1, STEPS, {})
        draft = ctx.store.new_draft(ctx.tenant, ADAPTERS, ctx.artifact_id)
        draft.write("weights", str(total).encode())
        draft.commit({"parents": []})
        return ctx.artifact_id

    module = types.ModuleType("toy_task")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_task", module)
    monkeypatch.setitem(jobs.KINDS, "fit_adapter", ("toy_task", ADAPTERS))
    return done


def _runner(
    database: JobDatabase, store: ArtifactStore, settings: TrainerSettings
) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(database, store, settings, stop), daemon=True)
    thread.start()
    return thread, stop


def _after_steps(steps: list[int], num: int) -> None:
    deadline = time.monotonic() + 20
    while len(steps) < num:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _finished(database: JobDatabase, id: str) -> Job:
    deadline = time.monotonic() + 30
    while not (job := database.get("local", id)).is_final:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return job


@pytest.mark.parametrize("by", ["database", "runner"])
def test_a_drained_job_goes_on_without_doing_a_step_twice(
    by: str, database, store, settings, steps, capsys
) -> None:
    job = database.create("local", "fit_adapter", {"checkpoints": True})
    runner, stop = _runner(database, store, settings)
    _after_steps(steps, 10)
    if by == "runner":
        stop.set()
        runner.join(10)
    else:
        assert drain_jobs.main(["--reason", "upgrade", "--wait-seconds", "20"]) == 0
        assert "(upgrade); 0 jobs are running" in capsys.readouterr().out
    given_back = database.get("local", job.id)
    assert (given_back.state, given_back.attempts) == ("PENDING", 1)
    assert given_back.checkpoint
    assert 10 <= len(steps) < STEPS
    if by == "database":
        later = database.create("local", "fit_adapter", {"checkpoints": True})
        assert not database.has_work() and database.lease("eager", 10) is None
        assert database.get("local", later.id).state == "PENDING"
        database.request_cancel("local", later.id)
        assert drain_jobs.main(["--resume"]) == 0
        runner.join(10)
    _runner(database, store, settings)
    done = _finished(database, job.id)
    assert (done.state, done.attempts) == ("SUCCEEDED", 2)
    assert steps == list(range(STEPS))
    assert store.read("local", ADAPTERS, job.id, "weights") == str(sum(range(STEPS))).encode()


def test_a_phase_without_checkpoints_is_left_at_once_and_begun_again(
    database, store, settings, steps
) -> None:
    job = database.create("local", "fit_adapter", {"checkpoints": False})
    runner, stop = _runner(database, store, settings)
    _after_steps(steps, 10)
    stop.set()
    runner.join(10)
    assert database.get("local", job.id).state == "PENDING"
    assert len(steps) < STEPS
    first = len(steps)
    _runner(database, store, settings)
    assert _finished(database, job.id).state == "SUCCEEDED"
    assert steps == [*range(first), *range(STEPS)]


def test_status_says_how_it_is_and_a_job_that_does_not_stop_is_told(
    database, settings, capsys
) -> None:
    assert drain_jobs.main(["--status"]) == 0
    assert capsys.readouterr().out == "no drain; 0 jobs are running\n"
    database.create("local", "report", {})
    assert database.lease("deaf", 60) is not None
    assert drain_jobs.main(["--wait-seconds", "0.3"]) == 1
    assert "1 jobs are running" in capsys.readouterr().out
    assert drain_jobs.main(["--status"]) == 1
    assert drain_jobs.main(["--resume"]) == 0
    assert drain_jobs.main(["--resume"]) == 0
    assert capsys.readouterr().out.endswith("there was no drain\n")


def test_only_the_runners_of_a_host_are_stopped_by_its_file(
    database, store, settings, steps, tmp_path, monkeypatch, capsys
) -> None:
    with pytest.raises(SystemExit, match="2"):
        drain_jobs.main(["--this-host"])
    assert "CYTOSYNTH_DRAIN_FILE" in capsys.readouterr().err
    file = tmp_path / "drain"
    monkeypatch.setenv("CYTOSYNTH_DRAIN_FILE", str(file))
    database.create("local", "report", {})
    assert database.lease("elsewhere-1-a", 60) is not None
    job = database.create("local", "fit_adapter", {"checkpoints": True})
    file.touch()
    os.utime(file, (1, 1))  # of a runner before
    runner, stop = _runner(database, store, settings)
    look = threading.Thread(target=stop_by_file, args=(file, stop), daemon=True)
    look.start()
    _after_steps(steps, 10)
    assert not stop.is_set()
    assert drain_jobs.main(["--this-host"]) == 0
    assert capsys.readouterr().out == "drain of this host; 0 jobs are running\n"
    runner.join(10)
    look.join(10)
    assert not runner.is_alive() and not look.is_alive()
    assert database.get("local", job.id).state == "PENDING"
    assert database.num_held() == 1, "another host's job is left alone"
    _runner(database, store, settings)
    assert _finished(database, job.id).state == "SUCCEEDED"
    assert steps == list(range(STEPS))


def test_a_job_is_left_only_once_its_checkpoint_is_saved() -> None:
    request = DrainRequest()
    request.check()
    assert not request.checkpoint_wanted()
    request.saved()  # one that was due anyway, before the drain
    request.ask()
    request.check()
    assert request.checkpoint_wanted()
    request.check()
    request.saved()
    with pytest.raises(Drained):
        request.check()
