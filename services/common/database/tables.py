"""Tables of the job database, which ``migrations/`` creates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("kind", sa.String(63), nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("idempotency_key", sa.String(128)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("total_steps", sa.BigInteger, nullable=False),
    sa.Column("eta_seconds", sa.Double, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("checkpoint", sa.Text, nullable=False),
    # How often a runner took the job up, and how often one was lost with it.
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("lease_owner", sa.Text),
    # Of the call that asked for the job; empty: not known.
    sa.Column("request_id", sa.String(64), nullable=False, server_default=""),
    sa.Column("traceparent", sa.String(64), nullable=False, server_default=""),
    # Times are seconds since 1970, UTC.
    sa.Column("lease_expires", sa.Double),
    sa.Column("create_time", sa.Double, nullable=False),
    sa.Column("update_time", sa.Double, nullable=False),
    sa.UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_idempotency_key"),
    sa.Index("ix_jobs_tenant_create_time", "tenant", "create_time"),
    sa.Index("ix_jobs_state_create_time", "state", "create_time"),
)

# Every change of an alias, oldest first; an alias means the last entry not rolled back.
alias_history = sa.Table(
    "alias_history",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("alias", sa.String(63), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("classifier_id", sa.String(63), nullable=False),
    sa.Column("create_time", sa.Double, nullable=False),
    sa.Column("rollback_time", sa.Double),
)

# While a row is here no job is leased, and running jobs are released (drain).
drains = sa.Table(
    "drains",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("create_time", sa.Double, nullable=False),
)

# What a client had deleted: written before the deletion begins, so that a restored backup in which
# the artifact is still there is recognised.
deletions = sa.Table(
    "deletions",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(127), primary_key=True),
    sa.Column("request_time", sa.Double, nullable=False),
    # Of the proof; empty and 0 until the artifact is gone.
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("num_objects", sa.BigInteger, nullable=False),
)


def first_row(engine: sa.Engine, query: sa.Select[Any]) -> Any:
    """The first row that a query finds, else None."""
    with engine.connect() as connection:
        return connection.execute(query).first()


def open_engine(database_url: str) -> sa.Engine:
    """An engine for the job database; SQLite waits for other writers."""
    url = sa.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=15000")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    return engine
