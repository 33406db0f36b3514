"""Upgrade and disaster on real stacks: drain; new, lost and restored clusters."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cytosynth.client import (
    AdapterSettings,
    Client,
    SamplerSettings,
    SplitSettings,
    SynthesisSettings,
)
from cytosynth.client.trainer.jobs import JobHandle
from cytosynth.phantoms import DEMO_HOSPITAL, write_image_folder
from cytosynth.stack import processes as stack_processes
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import StackFiles
from services.common.database.jobs import Job, JobDatabase
from services.common.store.artifacts import ArtifactStore
from tests.support import fakes

START_SECONDS = 300.0
NUM_STEPS = 300
COUNTS = {"basophil": 60, "monocyte": 60}
WANTED = SynthesisSettings(seed=11, sampler=SamplerSettings(num_steps=4), priority="bulk")
ADAPTERS = "adapters"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Images = list[tuple[int, str, int, bytes]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with database, store and a tiny base.

    The settings that stacks are started with point there.
    """
    root = tmp_path_factory.mktemp("site")
    fakes.write_tiny_base(root / "models", "tiny", class_ids=tuple(COUNTS))
    settings = {
        "STORE_URI": f"file://{root}/store",
        "DATABASE_URL": f"sqlite:///{root}/jobs.db",
        "MODELS_DIR": str(root / "models"),
        "DEFAULT_BASE": "tiny",
        "GENERATOR_DTYPE": "float32",
        "GENERATOR_NUM_SLOTS": "8",
        "RUNNER_NUM_THREADS": "1",
        # A job that is not given back would not be taken up within this test, and one that is
        # saved is saved by the drain alone.
        "LEASE_SECONDS": "3600",
        "CHECKPOINT_SECONDS": "86400",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"CYTOSYNTH_{name}", value)
        yield root


@pytest.fixture(scope="module")
def port() -> int:
    """One address for all stacks of a site, like a service's name."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _images(address: str, pause_seconds: float, first: threading.Event) -> Images:
    images = []
    with Client(address) as client:
        for cell in client.synthesize(COUNTS, WANTED):
            images.append((cell.index, cell.class_id, cell.image_seed, cell.data))
            first.set()
            time.sleep(pause_seconds)
    return images


def _weights(site: Path, result: str) -> dict[str, str]:
    files = ArtifactStore(f"file://{site}/store").get_manifest(
        "local", ADAPTERS, result.removeprefix(f"{ADAPTERS}/")
    )["files"]
    return {path: digest for path, digest in files.items() if path.endswith(".safetensors")}


def _stored(site: Path, name: str) -> Job:
    database = JobDatabase(f"sqlite:///{site}/jobs.db")
    try:
        return database.get("local", name.removeprefix("jobs/"))
    finally:
        database.close()


def _wait_for_step(handle: JobHandle, step: int) -> None:
    deadline = time.monotonic() + 300
    while (now := handle.refresh().progress).phase != "training adapter" or now.step < step:
        assert not handle.job.done and time.monotonic() < deadline, handle.job
        time.sleep(0.1)


def _wait_until_free(port: int) -> None:
    """A killed process keeps its port until its memory is given back."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def _type(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _fit(client: Client, dataset: str, key: str) -> JobHandle:
    settings = AdapterSettings(num_steps=NUM_STEPS, rank=4, batch_size=4, seed=5)
    return client.fit_adapter(dataset, settings, base="tiny", idempotency_key=key)


@pytest.fixture(scope="module")
def calm(site: Path, port: int) -> Iterator[dict[str, Any]]:
    """Adapter and images of an undisturbed stack, left with a running job."""
    write_image_folder(site / "cells", DEMO_HOSPITAL, dict.fromkeys(COUNTS, 24), seed=3)
    (site / "cells/labels.csv").unlink()  # few images: patients would leave a class without any
    first = local_stack.up(port, state_dir=site / "first", timeout_seconds=START_SECONDS)
    found: dict[str, Any] = {"first": first}
    with Client(first.address) as client:
        dataset = client.upload_dataset(site / "cells", split=SplitSettings(shots=4)).name
        found["dataset"] = dataset
        found["weights"] = _weights(site, _fit(client, dataset, "calm").wait().result)
        found["images"] = _images(first.address, 0.0, threading.Event())
        handle = _fit(client, dataset, "drained")
        found["job"] = handle.name
        _wait_for_step(handle, 40)
    yield found
    local_stack.down(site / "first")


def test_a_new_cluster_goes_on_where_the_old_one_was_stopped(
    site: Path, port: int, calm: dict[str, Any]
) -> None:
    streamed: list[Images] = []
    failed: list[BaseException] = []
    begun = threading.Event()

    def stream() -> None:
        try:
            streamed.append(_images(calm["first"].address, 0.15, begun))
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=stream, daemon=True)
    reader.start()
    assert begun.wait(120)
    assert local_stack.down(site / "first") is True
    assert reader.is_alive(), "the stream ended before the stack did"
    given_back = _stored(site, calm["job"])
    assert (given_back.state, given_back.attempts) == ("PENDING", 1)
    assert 40 <= given_back.step < NUM_STEPS
    assert given_back.checkpoint, "it was left without a checkpoint"

    _type("services.common.database.migrate")
    second = local_stack.up(port, state_dir=site / "second", timeout_seconds=START_SECONDS)
    try:
        with Client(second.address) as client:
            done = client.job(calm["job"]).wait()
        assert _stored(site, calm["job"]).attempts == 2
        assert _weights(site, done.result) == calm["weights"] != {}
        reader.join(300)
        assert failed == []
        assert streamed == [calm["images"]]
    finally:
        local_stack.down(site / "second")


def test_everything_killed_at_once_costs_no_more_than_since_the_checkpoint(
    site: Path, port: int, calm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    local_stack.down(site / "first")
    monkeypatch.setenv("CYTOSYNTH_LEASE_SECONDS", "5")
    monkeypatch.setenv("CYTOSYNTH_CHECKPOINT_SECONDS", "0.2")
    state_dir = site / "third"
    info = local_stack.up(port, state_dir=state_dir, timeout_seconds=START_SECONDS)
    try:
        with Client(info.address) as client:
            handle = _fit(client, calm["dataset"], "killed")
            _wait_for_step(handle, 40)
        files = StackFiles(state_dir)
        for process in stack_processes.stack_processes(files.token, info.pid, files.root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        lost = _stored(site, handle.name)
        assert (lost.state, lost.attempts) == ("RUNNING", 1)
        assert lost.checkpoint
        _wait_until_free(port)
        # What the runbook says to type: the same command again, in the same folder.
        info = local_stack.up(port, state_dir=state_dir, timeout_seconds=START_SECONDS)
        with Client(info.address) as client:
            done = client.job(handle.name).wait()
        assert _stored(site, handle.name).attempts == 2
        assert _weights(site, done.result) == calm["weights"]
    finally:
        local_stack.down(state_dir)


def test_a_site_restored_from_its_backup_serves_what_the_old_one_did(
    site: Path, port: int, calm: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local_stack.down(site / "first")
    assert ": 0 faults" in _type("services.operations.verify")
    _type("services.operations.backup", "database", str(tmp_path / "backup/jobs.db"))
    _type("services.operations.backup", "store", f"file://{tmp_path}/backup/store")
    new = tmp_path / "new"
    new.mkdir()
    (tmp_path / "backup/jobs.db").rename(new / "jobs.db")
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", f"sqlite:///{new}/jobs.db")
    monkeypatch.setenv("CYTOSYNTH_STORE_URI", f"file://{new}/store")
    _type("services.operations.backup", "restore-store", f"file://{tmp_path}/backup/store")
    assert ": 0 faults" in _type("services.operations.verify")
    info = local_stack.up(port, state_dir=new / "state", timeout_seconds=START_SECONDS)
    try:
        with Client(info.address) as client:
            job = client.job(calm["job"]).wait()
            assert _weights(new, job.result) == calm["weights"]
            again = client.synthesize(COUNTS, WANTED)
            assert [cell.data for cell in again] == [image[3] for image in calm["images"]]
            proof = client.delete_dataset(calm["dataset"])
        deletion = _type("services.common.deletions", "export")
        assert proof.digest in deletion
    finally:
        local_stack.down(new / "state")
    # The dataset comes back with the backup's copy, is found, and goes again.
    _type("services.operations.backup", "restore-store", f"file://{tmp_path}/backup/store")
    found = subprocess.run(
        [sys.executable, "-m", "services.operations.verify"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert f"{calm['dataset']}: was deleted, and is there (again)" in found.stdout
    _type("services.common.deletions", "again")
    assert ": 0 faults" in _type("services.operations.verify")
