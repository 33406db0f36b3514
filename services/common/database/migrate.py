"""Migrates the job database to a revision of its schema.

    python -m services.common.database.migrate            # to the newest; a second one waits
    python -m services.common.database.migrate --check    # exit status 1 unless it is there already
    python -m services.common.database.migrate --to 0001  # back, before an older version starts

Two neighbouring versions work on one database: a revision only adds tables, or columns that may be
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services.common.database.tables import open_engine
from services.common.settings import CommonSettings

NEWEST = "head"

log = logging.getLogger(__name__)


def migrate(database_url: str, revision: str = NEWEST) -> tuple[str, str]:
    """Migrates to a revision; several processes may call it at once.

    A database that a newer version has migrated is left as it is: its schema has all that this
    version uses.

    Returns:
        The revision before and after; empty if there was none.
    """
    import alembic.command
    from alembic.script import ScriptDirectory

    engine = open_engine(database_url)
    try:
        with _only_one(engine), engine.begin() as connection:
            config = _config()
            config.attributes["connection"] = connection
            before = _revision(connection)
            order = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
            order.reverse()
            target = order[-1] if revision == NEWEST else revision
            if target not in order:
                raise ValueError(f"no revision {revision!r}; there are {', '.join(order)}")
            if before and before not in order:
                log.warning("the database is at revision %s, of a newer version", before)
                return before, before
            if before and order.index(target) < order.index(before):
                alembic.command.downgrade(config, target)
            else:
                alembic.command.upgrade(config, target)
            return before, _revision(connection)
    finally:
        engine.dispose()


def revisions(database_url: str) -> tuple[str, str]:
    """The database's revision (empty: none) and the newest known one."""
    from alembic.script import ScriptDirectory

    engine = open_engine(database_url)
    try:
        with engine.connect() as connection:
            newest = ScriptDirectory.from_config(_config()).get_current_head()
            return _revision(connection), newest or ""
    finally:
        engine.dispose()


def _config() -> Any:
    import alembic.config

    config = alembic.config.Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return config


def _revision(connection: sa.Connection) -> str:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision() or ""


@contextlib.contextmanager
def _only_one(engine: sa.Engine) -> Iterator[None]:
    if engine.url.get_backend_name() == "sqlite":
        with open(f"{engine.url.database}.migrate.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:  # held until closed
        connection.execute(sa.text("SELECT pg_advisory_lock(6732987401)"))
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Migrates, or says whether that is to be done."""
    parser = argparse.ArgumentParser(prog="python -m services.common.database.migrate")
    parser.add_argument("--to", default=NEWEST, help="revision; default: the newest")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    url = CommonSettings.load_for(parser).database_url
    if options.check:
        found, newest = revisions(url)
        sys.stdout.write(f"database: {found or 'empty'}; this version: {newest}\n")
        return 0 if found == newest else 1
    try:
        before, after = migrate(url, options.to)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(f"database: {before or 'empty'} -> {after}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
