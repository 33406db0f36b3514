"""Distinction of storage failures, however deep a library wraps them."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.common.database.jobs import JobDatabase, migrate
from services.common.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.common.rpc.statuses import to_status
from services.common.storage_errors import storage_error
from tests.support.full_disk import fill, small_disk


class S3Error(Exception):
    """As botocore's ClientError carries what the store answered."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class PostgresError(Exception):
    """As psycopg's errors carry PostgreSQL's code."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("could not extend file")
        self.sqlstate = sqlstate


def wrapped(error: Exception) -> Exception:
    """The error as the cause of another."""
    try:
        raise ValueError("the library failed") from error
    except ValueError as outer:
        return outer


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "/secret/path"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    S3Error("XMinioStorageFull", 507),
    S3Error("QuotaExceeded", 403),
    S3Error("SomethingNew", 507),
    RuntimeError("Error while serializing: IoError(Os { code: 28, No space left on device })"),
    sa.exc.OperationalError("INSERT", {}, PostgresError("53100")),
]


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["itself", "wrapped"])
@pytest.mark.parametrize("error", FULL, ids=repr)
def test_a_full_disk_is_resource_exhausted_and_says_what_to_do(error, wrap) -> None:
    status = to_status(wrap(error), "r1")
    assert status.code == 8, "RESOURCE_EXHAUSTED"
    assert "full" in status.message and "cytosynth delete" in status.message
    assert "secret" not in status.message and "internal" not in status.message


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EROFS, FailedPrecondition, "read-only"),
        (errno.EACCES, FailedPrecondition, "permission"),
        (errno.EPERM, FailedPrecondition, "permission"),
        (errno.EIO, Unavailable, "failed to read or write"),
        (errno.ESTALE, Unavailable, "failed to read or write"),
    ],
)
def test_other_failures_of_storage_are_named(number: int, kind: type, words: str) -> None:
    found = storage_error(wrapped(OSError(number, "secret", "/secret/path")))
    assert type(found) is kind
    assert words in found.message and "secret" not in found.message


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "gone"), TimeoutError()],
    ids=repr,
)
def test_what_is_no_failure_of_storage_stays_unknown(error: Exception) -> None:
    assert storage_error(error) is None


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("by peer"),
        sa.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")),
    ],
    ids=repr,
)
def test_storage_that_is_away_is_unavailable(error: Exception) -> None:
    found = storage_error(wrapped(error))
    assert isinstance(found, Unavailable) and found.retry_after_seconds > 0


def test_a_database_that_is_full(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/jobs.db")
    database = JobDatabase(f"sqlite:///{tmp_path}/jobs.db")
    with database._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @sa.event.listens_for(database._engine, "checkout")
    def _limit(connection, _record, _proxy) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    with pytest.raises(sa.exc.OperationalError) as caught:
        database.create("local", "report", {"text": "x" * 100_000})
    assert isinstance(caught.value.orig, sqlite3.OperationalError)
    assert isinstance(storage_error(caught.value), ResourceExhausted)


def test_a_database_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        migrate(f"sqlite:///{disk}/jobs.db")
        database = JobDatabase(f"sqlite:///{disk}/jobs.db")
        kept = database.create("local", "report", {})
        ballast = fill(disk)
        with pytest.raises(sa.exc.OperationalError) as caught:
            database.create("local", "report", {"text": "x" * 100_000})
        assert isinstance(storage_error(caught.value), ResourceExhausted)
        late = JobDatabase(f"sqlite:///{disk}/jobs.db")
        with pytest.raises(sa.exc.OperationalError) as caught:
            late.create("local", "report", {"text": "x" * 100_000})
        assert isinstance(storage_error(caught.value), ResourceExhausted)
        late.close()
        ballast.unlink()
        assert database.create("local", "report", {}).id != kept.id
        assert database.get("local", kept.id) == kept
        database.close()
