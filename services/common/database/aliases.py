"""Aliases, such as ``production``, that name a classifier and can roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from services.common.database.tables import alias_history
from services.common.errors import FailedPrecondition, NotFound


@dataclass(frozen=True)
class Alias:
    """What an alias means; ``previous_classifier_id`` is None if it meant nothing before."""

    alias: str
    classifier_id: str
    previous_classifier_id: str | None
    update_time: datetime


class Aliases:
    """All tenants' aliases, with their history."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock

    def set(self, tenant: str, alias: str, classifier_id: str) -> Alias:
        """Points the alias at a classifier; a repeated call changes nothing."""
        while True:
            history = self._history(tenant, alias)
            current = _current(history)
            if current and current[-1].classifier_id == classifier_id:
                return _alias(alias, history)
            row = {
                "tenant": tenant,
                "alias": alias,
                "sequence": history[-1].sequence + 1 if history else 0,
                "classifier_id": classifier_id,
                "create_time": self._clock(),
            }
            try:
                with self._engine.begin() as connection:
                    connection.execute(alias_history.insert().values(row))
            except sa.exc.IntegrityError:  # another caller took the number
                continue
            return self.get(tenant, alias)

    def rollback(self, tenant: str, alias: str) -> Alias:
        """Points the alias at what it meant before the last ``set``.

        Raises:
            NotFound: If there is no such alias.
            FailedPrecondition: If it meant nothing before.
        """
        while True:
            current = _current(self._history(tenant, alias))
            if not current:
                raise _not_found(alias)
            if len(current) == 1:
                raise FailedPrecondition(
                    f"aliases/{alias}", "has no earlier classifier", "set it to one instead"
                )
            last = current[-1]
            update = alias_history.update().where(
                alias_history.c.tenant == tenant,
                alias_history.c.alias == alias,
                alias_history.c.sequence == last.sequence,
                alias_history.c.rollback_time.is_(None),
            )
            with self._engine.begin() as connection:
                if connection.execute(update.values(rollback_time=self._clock())).rowcount:
                    break
        return self.get(tenant, alias)

    def delete(self, tenant: str, alias: str) -> None:
        """Removes an alias; its history stays. Raises NotFound."""
        columns = alias_history.c
        update = alias_history.update().where(
            columns.tenant == tenant, columns.alias == alias, columns.rollback_time.is_(None)
        )
        with self._engine.begin() as connection:
            if not connection.execute(update.values(rollback_time=self._clock())).rowcount:
                raise _not_found(alias)

    def get(self, tenant: str, alias: str) -> Alias:
        """What the alias means now; raises NotFound."""
        history = self._history(tenant, alias)
        if not _current(history):
            raise _not_found(alias)
        return _alias(alias, history)

    def list(self, tenant: str) -> list[Alias]:
        """The tenant's aliases by name."""
        columns = alias_history.c
        query = (
            sa.select(columns.alias)
            .where(columns.tenant == tenant, columns.rollback_time.is_(None))
            .distinct()
        )
        with self._engine.connect() as connection:
            names = sorted(connection.scalars(query))
        return [self.get(tenant, name) for name in names]

    def _history(self, tenant: str, alias: str) -> Sequence[Any]:
        columns = alias_history.c
        query = (
            sa.select(alias_history)
            .where(columns.tenant == tenant, columns.alias == alias)
            .order_by(columns.sequence)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query))


def _current(history: Sequence[Any]) -> Sequence[Any]:
    return [row for row in history if row.rollback_time is None]


def _alias(alias: str, history: Sequence[Any]) -> Alias:
    current = _current(history)
    times = [t for row in history for t in (row.create_time, row.rollback_time) if t is not None]
    return Alias(
        alias=alias,
        classifier_id=current[-1].classifier_id,
        previous_classifier_id=current[-2].classifier_id if len(current) > 1 else None,
        update_time=datetime.fromtimestamp(max(times), UTC),
    )


def _not_found(alias: str) -> NotFound:
    return NotFound(f"aliases/{alias}", "set it first")
