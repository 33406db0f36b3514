"""Backup, restore, deletions that outlive a backup, and what ``verify`` finds afterwards."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.common import deletions
from services.common.database.jobs import JobDatabase, migrate
from services.common.deletions import delete_artifact
from services.common.errors import NotFound
from services.common.resource_names import ADAPTERS, CLASSIFIERS, DATASETS, JOBS
from services.common.store.artifacts import ArtifactStore
from services.operations import backup, verify
from tests.support.postgresql import POSTGRESQL_TOOLS


class Site:
    """A store and a database, used as the services use them."""

    def __init__(self, url: str, store_uri: str) -> None:
        self.url, self.store_uri = url, store_uri
        self.store, self.database = ArtifactStore(store_uri), JobDatabase(url)

    def artifact(self, kind: str, id: str, parents: list[str], tenant: str = "local") -> None:
        draft = self.store.new_draft(tenant, kind, id)
        for number in range(20):
            draft.write(f"images/{number}", f"{kind} {id} {number}".encode() * 50)
        draft.commit({"parents": parents})

    def job(self, kind: str, parents: list[str]) -> str:
        """A job that succeeded; gives its result's id."""
        job = self.database.create("local", "fit_adapter", {})
        assert self.database.lease("runner", 60) is not None
        self.artifact(kind, job.id, parents)
        self.database.succeed(job.id, "runner", f"{kind}/{job.id}")
        return job.id

    def problems(self) -> list[tuple[str, str]]:
        found = verify.verify(ArtifactStore(self.store_uri), self.database)
        return [(finding.name, finding.problem) for finding in found.faults]

    def notes(self) -> list[tuple[str, str]]:
        found = verify.verify(ArtifactStore(self.store_uri), self.database)
        return [(one.name, one.problem) for one in found.findings if one.is_note]


@pytest.fixture
def site(new_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A dataset, its adapter and classifier, an alias, and a running job."""
    migrate(new_url)
    site = Site(new_url, f"file://{tmp_path}/store")
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", new_url)
    monkeypatch.setenv("CYTOSYNTH_STORE_URI", site.store_uri)
    site.artifact(DATASETS, "d1", [])
    adapter = site.job(ADAPTERS, ["datasets/d1"])
    classifier = site.job(CLASSIFIERS, ["datasets/d1", f"adapters/{adapter}"])
    site.database.aliases.set("local", "production", classifier)
    under_way = site.database.create("local", "fit_adapter", {"under": "way"})
    assert site.database.lease("runner", 60) is not None
    site.artifact(JOBS, f"{under_way.id}-c1", [])
    site.database.save_checkpoint(under_way.id, "runner", f"{under_way.id}-c1")
    return site


#: For what is the same on any database.
ON_SQLITE = pytest.mark.parametrize("new_url", ["sqlite"], indirect=True)


def _dump(site: Site, tmp_path: Path) -> Path:
    """A copy of the database, made as the runbook makes it."""
    if site.url.startswith("sqlite"):
        assert backup.main(["database", str(tmp_path / "backup/jobs.db")]) == 0
        return tmp_path / "backup/jobs.db"
    dump = tmp_path / "backup.dump"
    _pg("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={_plain(site.url)}")
    return dump


def _restored(site: Site, dump: Path, store_uri: str, tmp_path: Path) -> Site:
    """Another site from the copies."""
    if site.url.startswith("sqlite"):
        url = f"sqlite:///{tmp_path}/restored/jobs.db"
        (tmp_path / "restored").mkdir(exist_ok=True)
        shutil.copy(dump, tmp_path / "restored/jobs.db")
        return Site(url, store_uri)
    name = sa.make_url(site.url).database
    with sa.create_engine(site.url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}_restored"))
    url = sa.make_url(site.url).set(database=f"{name}_restored")
    text = url.render_as_string(hide_password=False)
    _pg("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={_plain(text)}", str(dump))
    return Site(text, store_uri)


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def _pg(command: str, *arguments: str) -> None:
    tool = POSTGRESQL_TOOLS / command
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_site_in_order_has_no_fault(site: Site, capsys) -> None:
    assert verify.main([]) == 0
    out = capsys.readouterr().out
    assert "4 artifacts, 80 files" in out
    assert "3 jobs: 0 faults" in out
    assert verify.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_faults"] == 0


def test_a_restored_backup_has_no_fault_and_the_job_under_way_goes_on(
    site: Site, tmp_path: Path
) -> None:
    dump = _dump(site, tmp_path)
    late = site.job(ADAPTERS, ["datasets/d1"])  # between the copy of the database and the store's
    copy = f"file://{tmp_path}/backup/store"
    assert backup.main(["store", copy]) == 0
    restored = _restored(site, dump, f"file://{tmp_path}/restored/store", tmp_path)
    done = backup.copy_store(copy, restored.store_uri)
    assert (done.num_artifacts, done.num_files, done.damaged) == (5, 100, ())
    assert restored.problems() == []
    assert [name for name, _ in restored.notes()] == [f"adapters/{late}"]
    (job,) = [job for job in restored.database.all_jobs() if not job.is_final]
    assert restored.store.exists("local", JOBS, job.checkpoint)
    assert restored.database.aliases.get("local", "production").classifier_id
    for tenant, kind, id in (("local", DATASETS, "d1"), ("local", ADAPTERS, late)):
        assert restored.store.manifest_digest(tenant, kind, id) == site.store.manifest_digest(
            tenant, kind, id
        )


def test_a_store_older_than_the_database_is_named(site: Site, tmp_path: Path) -> None:
    copy = f"file://{tmp_path}/backup/store"
    backup.copy_store(site.store_uri, copy)
    late = site.job(CLASSIFIERS, ["datasets/d1"])
    site.database.aliases.set("local", "candidate", late)
    restored = _restored(site, _dump(site, tmp_path), copy, tmp_path)
    problems = dict(restored.problems())
    assert problems[f"jobs/{late}"] == f"its result classifiers/{late} is not in the store"
    assert problems["the store"].startswith("is older than the database: its newest artifact is of")
    assert problems["aliases/candidate"] == f"names classifiers/{late}, which is not there"
    assert len(problems) == 3


@ON_SQLITE
def test_a_checkpoint_is_needed_until_its_job_succeeds(site: Site) -> None:
    (job,) = [job for job in site.database.all_jobs() if not job.is_final]
    site.database.fail(job.id, "runner", {"type": "DomainError", "message": "the disk is full"})
    assert site.notes() == [], "the next job of the same request goes on from it"
    site.artifact(JOBS, f"{job.id}-c0", [])
    assert site.notes() == [(f"jobs/{job.id}-c0", "is a checkpoint that no job needs")]


@ON_SQLITE
def test_a_second_copy_takes_only_what_is_new(site: Site, tmp_path: Path) -> None:
    copy = f"file://{tmp_path}/backup/store"
    assert backup.copy_store(site.store_uri, copy).num_artifacts == 4
    site.store.new_draft("local", DATASETS, "unfinished").write("images/1", b"x")
    site.job(ADAPTERS, [])
    again = backup.copy_store(site.store_uri, copy)
    assert (again.num_artifacts, again.num_there) == (1, 4)
    assert ArtifactStore(copy).folders("local", DATASETS) == ["d1"]


@ON_SQLITE
def test_a_copy_made_while_the_database_is_written_is_whole(site: Site, tmp_path: Path) -> None:
    with sqlite3.connect(site.url.removeprefix("sqlite:///")) as writer:
        writer.execute("UPDATE jobs SET phase = 'not committed'")
        backup.copy_database(site.url, tmp_path / "copy.db")
        writer.rollback()
    copy = JobDatabase(f"sqlite:///{tmp_path}/copy.db")
    assert [job.phase for job in copy.all_jobs()] == ["", "", ""]
    with pytest.raises(backup.BackupRefused, match="is there already"):
        backup.copy_database(site.url, tmp_path / "copy.db")
    with pytest.raises(backup.BackupRefused, match="pg_dump"):
        backup.copy_database("postgresql+psycopg://host/jobs", tmp_path / "other.db")


@ON_SQLITE
def test_damaged_and_missing_files_are_named_and_not_copied(
    site: Site, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "store/tenants/local/datasets/d1"
    (folder / "images/7").write_bytes(b"rotten")
    (folder / "images/19").unlink()
    assert site.problems() == [
        ("datasets/d1", "file 'images/19' is missing or damaged"),
        ("datasets/d1", "file 'images/7' is missing or damaged"),
    ]
    assert backup.main(["store", f"file://{tmp_path}/copy"]) == 1
    assert "not copied: local: datasets/d1" in capsys.readouterr().err
    assert ArtifactStore(f"file://{tmp_path}/copy").folders("local", DATASETS) == []
    (folder / "manifest.json").write_text("{")
    assert ("datasets/d1", "its manifest is damaged") in site.problems()


def test_what_was_deleted_after_the_backup_is_deleted_again(
    site: Site, tmp_path: Path, monkeypatch, capsys
) -> None:
    dump = _dump(site, tmp_path)
    copy = f"file://{tmp_path}/backup/store"
    backup.copy_store(site.store_uri, copy)
    proof = delete_artifact(site.store, site.database, "local", DATASETS, "d1")
    assert site.problems() == []
    capsys.readouterr()
    assert deletions.main(["export"]) == 0
    export = tmp_path / "deletions.jsonl"
    export.write_text(capsys.readouterr().out)
    assert json.loads(export.read_text())["digest"] == proof["digest"]

    # The store alone is restored: the database knows.
    half = Site(site.url, f"file://{tmp_path}/half/store")
    backup.copy_store(copy, half.store_uri)
    assert half.problems() == [("datasets/d1", "was deleted, and is there (again)")]
    # Both are restored: only the export knows.
    restored = _restored(site, dump, f"file://{tmp_path}/restored/store", tmp_path)
    backup.copy_store(copy, restored.store_uri)
    assert restored.problems() == []
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", restored.url)
    monkeypatch.setenv("CYTOSYNTH_STORE_URI", restored.store_uri)
    assert deletions.main(["again", str(export)]) == 0
    assert "deleted again  local: datasets/d1" in capsys.readouterr().out
    assert not restored.store.exists("local", DATASETS, "d1")
    assert restored.problems() == []
    (kept,) = restored.database.deletions.list()
    assert replace(kept, request_time=0) == replace(
        site.database.deletions.list()[0], request_time=0
    )


@ON_SQLITE
def test_a_deletion_of_nothing_is_not_noted(site: Site) -> None:
    with pytest.raises(NotFound):
        delete_artifact(site.store, site.database, "local", DATASETS, "never")
    assert site.database.deletions.list() == []


@ON_SQLITE
def test_a_deletion_cut_short_is_found_and_finished(site: Site, monkeypatch) -> None:
    def lost(path: str) -> None:
        raise OSError("the process was killed here")

    with monkeypatch.context() as patch:
        patch.setattr(site.store._files, "remove", lost)
        with pytest.raises(OSError, match="killed"):
            delete_artifact(site.store, site.database, "local", DATASETS, "d1")
    found = [("datasets/d1", "was deleted, and is there (again)")]
    assert site.problems() == found
    assert deletions.main(["again"]) == 0
    assert site.problems() == []
    assert site.store.folders("local", DATASETS) == []
    (kept,) = site.database.deletions.list()
    assert kept.digest and kept.num_objects == 21
