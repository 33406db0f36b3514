"""A study in several processes: the same report, and nothing is lost with a process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import DataLoss, Unavailable
from services.common.store.artifacts import ArtifactStore
from services.trainer.jobs.draining import Drained, DrainRequest
from services.trainer.studies import job as study
from tests.support.few_shot import TENANT, FakeGenerator, job_context
from tests.support.studies import (
    ProcessNotes,
    begin,
    comparable,
    forget_synthesis,
    read_report,
)

SMALL = {"models": ["resnet18"], "num_per_class": [2], "num_draws": 2}


def test_processes_side_by_side_give_the_same_report(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = begin(store, settings, **SMALL)
    alone = read_report(store, study.run(spec, job_context(store, settings)))
    forget_synthesis(store)
    notes = ProcessNotes(tmp_path, meet=True)
    notes.use(monkeypatch, num_processes=2)
    told: list[tuple[str, int]] = []
    job = job_context(store, settings, "job-2", lambda phase, step, *_: told.append((phase, step)))
    together = read_report(store, study.run(spec, job))
    assert comparable(together) == comparable(alone)
    assert len({each["pid"] for each in notes.trained()}) == 2
    assert len(notes.trained()) == 2 * 5 and notes.num_drawn() == 2 * 6
    assert any(phase.count(";") for phase, _ in told), "what runs side by side is told together"
    assert told[-1][0] == "computing intervals"
    steps = [step for _, step in told]
    assert max(steps) == 2 * 2 * 5, "two steps for each of five classifiers of two replicates"
    assert steps[:-1] == sorted(steps[:-1]), "progress never goes back"


def test_a_study_whose_process_is_killed_repeats_no_finished_classifier(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = begin(store, settings, **SMALL)
    alone = read_report(store, study.run(spec, job_context(store, settings)))
    forget_synthesis(store)
    notes = ProcessNotes(tmp_path, die_at="die")
    notes.use(monkeypatch, num_processes=2)
    done: list[int] = []

    def progress(phase: str, step: int, *_: Any) -> None:
        done.append(step)
        if step >= 4 and len(done) > 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            (tmp_path / "die").touch()

    with pytest.raises(Unavailable, match="a training process was killed"):
        study.run(spec, job_context(store, settings, "job-2", progress))
    finished = len(notes.trained())
    again = read_report(store, study.run(spec, job_context(store, settings, "job-3", progress)))
    assert comparable(again) == comparable(alone)
    assert finished > 2 and len(notes.trained()) <= 2 * 5 + 2, "only what was cut off is repeated"
    assert notes.num_drawn() <= 2 * 6 + 6, "a round is the smallest part"


def test_a_drained_study_resumes_within_its_classifiers(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = {"models": ["resnet18"], "arms": ["real_only", "real_plus_phantoms"], "num_draws": 2}
    spec = begin(store, settings, num_steps=12, **some)
    alone = read_report(store, study.run(spec, job_context(store, settings)))
    notes = ProcessNotes(tmp_path, meet=True)
    notes.use(monkeypatch, num_processes=2)
    drain = DrainRequest()

    def progress(phase: str, step: int, *_: Any) -> None:
        if step >= 4:
            drain.ask()
        drain.check()

    job = dataclasses.replace(job_context(store, settings, "job-2", progress), drain=drain)
    with pytest.raises(Drained):
        study.run(spec, job)
    num_begun = len(notes.trained())
    again = read_report(store, study.run(spec, job_context(store, settings, "job-2")))
    assert comparable(again) == comparable(alone)
    resumed = [each for each in notes.trained()[num_begun:] if each["first_step"]]
    assert num_begun == len(resumed) == 2, "each of both goes on where it was"


def test_an_error_of_a_part_names_what_was_wrong(
    settings: Any, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = begin(store, settings, models=["resnet18"], arms=["real_only"], num_draws=1)
    study.run(spec, job_context(store, settings))
    [digest, *_] = store.list(TENANT, "datasets")[0]["digests"]
    for path in (tmp_path / "store").rglob(digest):
        path.write_bytes(b"damaged")
    ProcessNotes(tmp_path).use(monkeypatch, num_processes=2)
    with pytest.raises(DataLoss, match="is missing or damaged") as caught:
        study.run(spec, job_context(store, settings, "job-2"))
    assert "restore it" in caught.value.remedy
