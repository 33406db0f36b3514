"""Deletions of artifacts: noted before they begin, proved when they are done."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from services.common.database.tables import deletions


@dataclass(frozen=True)
class Deletion:
    """A requested deletion; ``digest`` is empty until it is proved."""

    tenant: str
    name: str
    request_time: float
    digest: str
    num_objects: int


class Deletions:
    """All tenants' deletions."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock

    def begin(self, tenant: str, name: str) -> None:
        """Notes a deletion before anything is removed."""
        row = {"tenant": tenant, "name": name, "request_time": self._clock()}
        try:
            with self._engine.begin() as connection:
                connection.execute(deletions.insert().values(**row, digest="", num_objects=0))
        except sa.exc.IntegrityError:
            pass  # it was asked for before

    def forget(self, tenant: str, name: str) -> None:
        """Removes the note of an artifact that does not exist."""
        mine = self._deletion(tenant, name)
        with self._engine.begin() as connection:
            connection.execute(deletions.delete().where(*mine, deletions.c.digest == ""))

    def end(self, tenant: str, name: str, digest: str, num_objects: int) -> None:
        """Keeps the proof of a deletion."""
        mine = self._deletion(tenant, name)
        values = {"digest": digest, "num_objects": num_objects}
        with self._engine.begin() as connection:
            connection.execute(deletions.update().where(*mine).values(values))

    def list(self) -> builtins.list[Deletion]:
        """All tenants' deletions, oldest first."""
        query = sa.select(deletions).order_by(deletions.c.request_time, deletions.c.name)
        with self._engine.connect() as connection:
            return [Deletion(**row._mapping) for row in connection.execute(query)]

    def _deletion(self, tenant: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return deletions.c.tenant == tenant, deletions.c.name == name
