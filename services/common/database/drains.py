"""Drains, during which no runner leases a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from services.common.database.tables import drains, first_row

_JOBS = "jobs"


@dataclass(frozen=True)
class Drain:
    """Start of a drain (seconds since 1970) and its reason."""

    reason: str
    create_time: float


class Drains:
    """The drain of all runners on a database."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock

    def start(self, reason: str) -> Drain:
        """Keeps jobs from being leased; a repeated call changes nothing."""
        drain = Drain(reason, self._clock())
        row = {"name": _JOBS, "reason": reason, "create_time": drain.create_time}
        try:
            with self._engine.begin() as connection:
                connection.execute(drains.insert().values(row))
        except sa.exc.IntegrityError:
            pass
        return self.current() or drain  # ended meanwhile

    def end(self) -> bool:
        """Lets jobs be leased again; False if there was no drain."""
        with self._engine.begin() as connection:
            return bool(connection.execute(drains.delete()).rowcount)

    def current(self) -> Drain | None:
        """The drain that is on, if any."""
        row = first_row(self._engine, sa.select(drains))
        return Drain(row.reason, row.create_time) if row else None


def no_drain() -> sa.ColumnElement[bool]:
    """True in a query while jobs may be leased."""
    return ~sa.exists().select_from(drains)
