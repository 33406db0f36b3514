"""A study in several processes: same report, nothing lost with a process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.store.artifacts import ArtifactStore
from services.trainer.jobs.draining import Drained, DrainRequest
from services.trainer.studies import job as study
from tests.support.few_shot import FakeGenerator, job_context
from tests.support.studies import (
    ProcessNotes,
    begin,
    comparable,
    forget_synthesis,
    read_report,
)

SMALL = {"models": ["resnet18"], "num_per_class": [2], "num_draws": 2}


@pytest.mark.timeout(900)  # four processes import torch
def test_processes_give_the_same_report_and_one_that_is_killed_costs_its_own_part(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = begin(store, settings, **SMALL)
    alone = read_report(store, study.run(spec, job_context(store, settings)))
    forget_synthesis(store)
    notes = ProcessNotes(tmp_path, meet=True, die_at="die")
    notes.use(monkeypatch, num_processes=2)
    told: list[tuple[str, int]] = []

    def progress(phase: str, step: int, *_: Any) -> None:
        told.append((phase, step))
        if step >= 4 and not (tmp_path / "told-to-die").exists():
            (tmp_path / "told-to-die").touch()
            (tmp_path / "die").touch()

    with pytest.raises(Unavailable, match="a training process was killed"):
        study.run(spec, job_context(store, settings, "job-2", progress))
    num_begun = len(notes.trained())
    assert any(phase.count(";") for phase, _ in told), "what runs side by side is told together"
    assert len({each["pid"] for each in notes.trained()}) == 2
    told.clear()
    again = read_report(store, study.run(spec, job_context(store, settings, "job-3", progress)))
    assert comparable(again) == comparable(alone)
    assert num_begun > 2 and len(notes.trained()) <= 2 * 5 + 2, "only what was cut off is repeated"
    assert notes.num_drawn() <= 2 * 6 + 6, "a round is the smallest part"
    assert told[-1][0] == "computing intervals"
    steps = [step for _, step in told[:-1]]
    assert max(steps) == 2 * 2 * 5, "two steps for each of five classifiers of two replicates"
    assert steps == sorted(steps), "progress never goes back"


@pytest.mark.timeout(900)  # four processes import torch
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
