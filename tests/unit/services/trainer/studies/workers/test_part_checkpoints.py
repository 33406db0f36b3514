"""A checkpoint for each part of a study, whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.store.artifacts import ArtifactStore
from services.common.store.drafts import Draft
from services.trainer.jobs.draining import Drained, DrainRequest
from services.trainer.studies.workers.part_checkpoints import PartCheckpoints

STATE, FILES = {"step": 3}, {"model.safetensors": b"\x00\x01", "folder/other": b""}


@pytest.fixture
def work(tmp_path: Path) -> Draft:
    return ArtifactStore(f"file://{tmp_path}").new_draft("lab", "jobs", "study-1")


def test_a_part_finds_its_own_state_until_it_is_finished(work: Draft) -> None:
    first, second = (PartCheckpoints(work, name, 0, DrainRequest()) for name in ("a/b.json", "c"))
    assert first.load() is None and first.due()
    first.save(STATE, FILES)
    assert first.load() == (STATE, FILES) and second.load() is None
    first.save({"step": 4}, {})
    assert PartCheckpoints(work, "a/b.json", 0, DrainRequest()).load() == ({"step": 4}, {})
    first.remove()
    first.remove()
    assert first.load() is None and work.list() == []


def test_a_damaged_checkpoint_starts_the_part_anew(work: Draft) -> None:
    checkpoints = PartCheckpoints(work, "a", 0, DrainRequest())
    checkpoints.save(STATE, FILES)
    [path] = work.list()
    work.write(path, work.read(path)[:-30])
    assert checkpoints.load() is None


def test_a_drain_asks_for_a_checkpoint_before_its_time(work: Draft) -> None:
    drain = DrainRequest()
    checkpoints = PartCheckpoints(work, "a", 3600, drain)
    assert not checkpoints.due()
    drain.ask()
    drain.check()
    assert checkpoints.due()
    checkpoints.save(STATE, FILES)
    with pytest.raises(Drained):
        drain.check()
    assert checkpoints.load() == (STATE, FILES)


def test_a_full_disk_costs_no_part_its_last_checkpoint(
    work: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, missed = DrainRequest(), list[int]()
    checkpoints = PartCheckpoints(work, "a", 0, drain, lambda: missed.append(1))
    checkpoints.save(STATE, FILES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work, "write", full)
    drain.ask()
    checkpoints.save({"step": 9}, {})
    assert missed == [1]
    assert checkpoints.load() == (STATE, FILES)
    with pytest.raises(Drained):
        drain.check()
