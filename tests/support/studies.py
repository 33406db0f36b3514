"""Studies small enough for tests, in one process or in several."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers import training
from services.trainer.studies import job as study
from services.trainer.studies import recipe, trials
from services.trainer.studies.recipe import ARMS, REAL_PLUS_FURTHER_REAL
from services.trainer.studies.workers import worker
from tests.support.few_shot import TENANT, FakeGenerator, serve_images, upload_dataset

QUICK = {
    "models": ["resnet18", "clip"],
    "arms": [arm for arm in ARMS if arm != REAL_PLUS_FURTHER_REAL],
    "num_per_class": [2, 4],
    "num_draws": 2,
    "shots": 3,
    "max_test_per_class": 5,
    "base": "tiny",
    "clip_base": "tiny-clip",
    "num_steps": 2,
    "adapter_steps": 2,
}


def begin(store: ArtifactStore, settings: Any, **changes: Any) -> dict[str, Any]:
    """A validated request."""
    spec = {"dataset": upload_dataset(store, settings), "settings": QUICK | changes, "title": "T"}
    return study.validate(spec, store, TENANT, settings)


def read_report(store: ArtifactStore, report: str) -> dict[str, Any]:
    return json.loads(store.read(TENANT, "reports", report, "report.json"))


def comparable(content: dict[str, Any]) -> dict[str, Any]:
    """A report without times and artifact digests, which differ between runs."""
    for replicate in content["draws"]:
        for name in ("adapter_files", "image_set"):
            replicate.pop(name, None)
    return content


def forget_synthesis(store: ArtifactStore) -> None:
    """Delete all adapters and image sets; the next study makes its own."""
    for folder in ("adapters", "imageSets"):
        for manifest in store.list(TENANT, folder):
            store.delete(TENANT, folder, manifest["name"].split("/")[1])


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains on small batches, with a short recalibration."""
    really = recipe.hyperparameters_of

    def small(*args: Any) -> Any:
        return dataclasses.replace(really(*args), batch_size=6, synthetic_batch_size=4)

    monkeypatch.setattr(training, "_BATCHNORM_BATCHES", 1)
    monkeypatch.setattr(trials, "hyperparameters_of", small)


@dataclasses.dataclass(frozen=True)
class ProcessNotes:
    """Files for the notes of worker processes, which receive this object pickled.

    Attributes:
        folder: Where the files lie.
        meet: Whether the first two trainings wait until both are running.
        die_at: Name of a file; the process that first begins a training while the file is there
            removes it and is killed.
    """

    folder: Path
    meet: bool = False
    die_at: str = ""

    def use(self, monkeypatch: pytest.MonkeyPatch, num_processes: int) -> None:
        """Run this test's studies in ``num_processes`` processes that note their work."""
        from services.trainer.compute import parallel_training

        monkeypatch.setattr(parallel_training, "num_workers", lambda device: num_processes)
        monkeypatch.setattr(worker, "begin_process", BeginNotingProcess(self))

    def trained(self) -> list[dict[str, Any]]:
        """Model, seed, first step and process of each training that was begun."""
        lines = (self.folder / "trained").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def num_drawn(self) -> int:
        """Images that fake generators of all processes gave."""
        return len((self.folder / "drawn").read_text())

    def note(self, name: str, text: str) -> None:
        """Appends to a file."""
        with open(self.folder / name, "a") as file:
            file.write(text)


@dataclasses.dataclass(frozen=True)
class BeginNotingProcess:
    """Stands in for ``begin_process``: the same with a fake generator and notes."""

    notes: ProcessNotes

    def __call__(self, *args: Any) -> Any:
        monkeypatch = pytest.MonkeyPatch()  # of a process of its own, so it is never undone
        make_quick(monkeypatch)
        notes, generator, train = self.notes, FakeGenerator(), trials.train_and_test

        def drawing(class_counts: dict[str, int], seed: int) -> Any:
            for image in generator(class_counts, seed):
                notes.note("drawn", ".")
                yield image

        def noting(model: Any, hyper: Any, *rest: Any) -> Any:
            checkpoint = rest[-1].load()
            first = checkpoint[0]["step"] if checkpoint else 0
            known = {"model": hyper.architecture, "seed": hyper.seed, "first_step": first}
            notes.note("trained", json.dumps({**known, "pid": os.getpid()}) + "\n")
            if notes.die_at and (notes.folder / notes.die_at).exists():
                (notes.folder / notes.die_at).unlink()
                os.kill(os.getpid(), 9)
            until = time.monotonic() + 240
            while notes.meet and len({each["pid"] for each in notes.trained()}) < 2:
                assert time.monotonic() < until
                time.sleep(0.02)
            return train(model, hyper, *rest)

        serve_images(monkeypatch, drawing)
        monkeypatch.setattr(trials, "train_and_test", noting)
        return worker.begin_process(*args)
