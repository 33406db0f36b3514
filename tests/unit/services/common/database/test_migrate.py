"""Migrations: one at a time, beside readers of the previous version, reversible."""

import re
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from services.common.database import migrate
from services.common.database import tables as job_tables
from services.common.database.jobs import JobDatabase

# What version 0001 of the code says to the database, word for word; it knows no later table.
_OLD_LEASE = """UPDATE jobs SET state='RUNNING', attempts=attempts+1, lease_owner=:owner,
    lease_expires=:until, update_time=:now WHERE id=:id AND state='PENDING'"""
_OLD_BEAT = """UPDATE jobs SET step=step+1, metrics='{}', lease_expires=:until, update_time=:now
    WHERE id=:id AND state='RUNNING' AND lease_owner=:owner"""
_OLD_COLUMNS = """id, tenant, kind, spec, idempotency_key, state, phase, step, total_steps,
    eta_seconds, metrics, result, error, checkpoint, attempts, losses, cancel_requested,
    lease_owner, lease_expires, create_time, update_time"""
_OLD_READ = f"SELECT {_OLD_COLUMNS} FROM jobs WHERE tenant='local' AND id=:id"
_OLD_CREATE = """INSERT INTO jobs (id, tenant, kind, spec, state, phase, step, total_steps,
    eta_seconds, metrics, result, checkpoint, attempts, losses, cancel_requested, create_time,
    update_time) VALUES (:id, 'local', 'report', '{"n": 1}', 'PENDING', '', 0, 0, 0, '{}', '', '',
    0, 0, :no, 1, 1)"""


def _revisions() -> list[str]:
    script = ScriptDirectory.from_config(migrate._config())
    return [one.revision for one in script.walk_revisions()][::-1]


def _run(url: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.common.database.migrate", *arguments]
    return subprocess.Popen(
        command,
        env={"CYTOSYNTH_DATABASE_URL": url, "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class _OldRunner(threading.Thread):
    """A runner of version 0001 that works until told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._engine = job_tables.open_engine(url)
        self.stop, self.num_beats, self.failure = threading.Event(), 0, None

    def run(self) -> None:
        values = {"id": "old-job", "owner": "old", "no": False}
        try:
            self._say(_OLD_CREATE, **values)
            assert self._say(_OLD_LEASE, **values, until=time.time() + 60, now=time.time()) == 1
            while not self.stop.is_set():
                assert self._say(_OLD_BEAT, **values, until=time.time() + 60, now=time.time()) == 1
                with self._engine.connect() as connection:
                    row = connection.execute(sa.text(_OLD_READ), values).one()
                assert list(row._mapping) == re.split(r",\s+", _OLD_COLUMNS)
                self.num_beats += 1
        except Exception as failure:
            self.failure = failure
        finally:
            self._engine.dispose()

    def _say(self, statement: str, **values) -> int:
        with self._engine.begin() as connection:
            return connection.execute(sa.text(statement), values).rowcount


def test_a_runner_of_the_first_version_works_through_the_migration(new_url) -> None:
    assert migrate.migrate(new_url, "0001") == ("", "0001")
    runner = _OldRunner(new_url)
    runner.start()
    while runner.num_beats < 5 and runner.is_alive():
        time.sleep(0.01)
    assert migrate.migrate(new_url) == ("0001", _revisions()[-1])
    migrated_at = runner.num_beats
    while runner.num_beats < migrated_at + 20 and runner.is_alive():
        time.sleep(0.01)
    runner.stop.set()
    runner.join(20)
    assert runner.failure is None
    database = JobDatabase(new_url)
    job = database.get("local", "old-job")
    database.close()
    assert (job.state, job.spec) == ("RUNNING", {"n": 1})
    assert job.step == runner.num_beats > 20


def test_two_migrations_at_once_take_turns(new_url) -> None:
    migrate.migrate(new_url, "0001")
    both = [_run(new_url), _run(new_url)]
    said = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    newest = _revisions()[-1]
    assert said == [f"database: 0001 -> {newest}", f"database: {newest} -> {newest}"]
    engine = job_tables.open_engine(new_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, job_tables.metadata) == []
    engine.dispose()


def test_every_revision_leaves_what_the_one_before_uses(new_url) -> None:
    before: dict[str, dict[str, str]] = {}
    for revision in _revisions():
        migrate.migrate(new_url, revision)
        engine = job_tables.open_engine(new_url)
        inspector = sa.inspect(engine)
        now = {table: inspector.get_columns(table) for table in inspector.get_table_names()}
        for table, columns in before.items():
            kept = {column["name"]: str(column["type"]) for column in now[table]}
            assert columns.items() <= kept.items(), (revision, table)
            added = [column for column in now[table] if column["name"] not in columns]
            assert all(c["nullable"] or c["default"] is not None for c in added), (revision, table)
        before = {table: {c["name"]: str(c["type"]) for c in now[table]} for table in now}
        engine.dispose()
    assert set(before) >= set(job_tables.metadata.tables)


def test_back_to_the_first_revision_and_up_again_keeps_the_jobs(new_url) -> None:
    migrate.migrate(new_url)
    database = JobDatabase(new_url)
    job = database.create("local", "report", {"n": 7})
    assert migrate.migrate(new_url, "0001")[1] == "0001"
    engine = job_tables.open_engine(new_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text(_OLD_READ), {"id": job.id}).one().kind == "report"
    engine.dispose()
    migrate.migrate(new_url)
    assert database.has_work() and database.get("local", job.id).spec == {"n": 7}
    database.close()


def test_a_database_of_a_newer_version_is_left_alone(new_url) -> None:
    migrate.migrate(new_url)
    engine = job_tables.open_engine(new_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    assert migrate.migrate(new_url) == ("9999", "9999")
    assert JobDatabase(new_url).list("local") == []


def test_check_changes_nothing_and_a_wrong_revision_is_named(new_url, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", new_url)
    assert migrate.main(["--check"]) == 1
    assert re.match("database: empty; this version: 000", capsys.readouterr().out)
    assert migrate.main([]) == 0
    assert migrate.main(["--check"]) == 0
    with pytest.raises(SystemExit):
        migrate.main(["--to", "0815"])
    assert "no revision '0815'" in capsys.readouterr().err
