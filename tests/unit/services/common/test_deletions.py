"""Noted and proved deletions, also where storage is too full for notes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.common.database.deletions import Deletions
from services.common.database.jobs import JobDatabase, migrate
from services.common.deletions import delete_artifact
from services.common.errors import NotFound
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore
from tests.support.full_disk import fill, small_disk


def site(root: Path) -> tuple[ArtifactStore, JobDatabase]:
    """A store with one dataset, and a database, both below ``root``."""
    migrate(f"sqlite:///{root}/jobs.db")
    store = ArtifactStore(f"file://{root}/store")
    draft = store.new_draft("local", DATASETS, "d1")
    draft.write("image", b"x" * 100_000)
    draft.commit({"parents": []})
    database = JobDatabase(f"sqlite:///{root}/jobs.db")
    assert database.deletions.list() == []
    return store, database


def test_a_deletion_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store, database = site(disk)
        fill(disk)
        proof = delete_artifact(store, database, "local", DATASETS, "d1")
        assert not store.exists("local", DATASETS, "d1")
        [noted] = database.deletions.list()
        assert (noted.name, noted.digest) == ("datasets/d1", proof["digest"])
        database.close()


@pytest.fixture
def full_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has no room for the next note."""
    begin = Deletions.begin

    def refuse(self: JobDatabase, tenant: str, name: str) -> None:
        monkeypatch.setattr(Deletions, "begin", begin)
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise sa.exc.OperationalError("INSERT", {}, error)

    monkeypatch.setattr(Deletions, "begin", refuse)


@pytest.mark.usefixtures("full_once")
def test_a_deletion_that_makes_the_room_for_its_note(tmp_path: Path) -> None:
    store, database = site(tmp_path)
    proof = delete_artifact(store, database, "local", DATASETS, "d1")
    [noted] = database.deletions.list()
    assert (noted.name, noted.digest) == ("datasets/d1", proof["digest"])


@pytest.mark.usefixtures("full_once")
def test_what_does_not_exist_is_not_noted(tmp_path: Path) -> None:
    store, database = site(tmp_path)
    with pytest.raises(NotFound):
        delete_artifact(store, database, "local", DATASETS, "d2")
    assert database.deletions.list() == []
