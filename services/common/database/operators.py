"""What operators write down for all services: a drain, and what was deleted for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.common.database.aliases import AliasDatabase
from services.common.database.tables import deletions, drains

_JOBS = "jobs"


@dataclass(frozen=True)
class Drain:
    """Since when no job is taken up, and why; seconds since 1970."""

    reason: str
    create_time: float


@dataclass(frozen=True)
class Deletion:
    """An artifact whose deletion was asked for; ``digest`` is empty while it is not proved."""

    tenant: str
    name: str
    request_time: float
    digest: str
    num_objects: int


class OperatorDatabase(AliasDatabase):
    """The part of the job database that keeps drains and deletions."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock)

    def start_drain(self, reason: str) -> Drain:
        """From now on nobody takes up a job; a repeated call changes nothing."""
        drain = Drain(reason, self._clock())
        row = {"name": _JOBS, "reason": reason, "create_time": drain.create_time}
        try:
            with self._engine.begin() as connection:
                connection.execute(drains.insert().values(row))
        except sa.exc.IntegrityError:
            pass
        return self.drain() or drain  # ended meanwhile

    def end_drain(self) -> bool:
        """Jobs are taken up again; False if there was no drain."""
        with self._engine.begin() as connection:
            return bool(connection.execute(drains.delete()).rowcount)

    def drain(self) -> Drain | None:
        """The drain that is on, if any."""
        row = self._one(sa.select(drains))
        return Drain(row.reason, row.create_time) if row else None

    def begin_deletion(self, tenant: str, name: str) -> None:
        """Notes that an artifact is to be gone, before anything of it is removed."""
        row = {"tenant": tenant, "name": name, "request_time": self._clock()}
        try:
            with self._engine.begin() as connection:
                connection.execute(deletions.insert().values(**row, digest="", num_objects=0))
        except sa.exc.IntegrityError:
            pass  # it was asked for before

    def forget_deletion(self, tenant: str, name: str) -> None:
        """Takes a note back that was made for an artifact which does not exist."""
        mine = self._deletion(tenant, name)
        with self._engine.begin() as connection:
            connection.execute(deletions.delete().where(*mine, deletions.c.digest == ""))

    def end_deletion(self, tenant: str, proof: dict[str, Any]) -> None:
        """Keeps the proof, as ``ArtifactStore.delete`` gives it."""
        mine = self._deletion(tenant, proof["name"])
        values = {"digest": proof["digest"], "num_objects": proof["num_objects"]}
        with self._engine.begin() as connection:
            connection.execute(deletions.update().where(*mine).values(values))

    def deletions(self) -> list[Deletion]:
        """All tenants' deletions, oldest first."""
        query = sa.select(deletions).order_by(deletions.c.request_time, deletions.c.name)
        with self._engine.connect() as connection:
            return [Deletion(**row._mapping) for row in connection.execute(query)]

    def _deletion(self, tenant: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return deletions.c.tenant == tenant, deletions.c.name == name


def no_drain() -> sa.ColumnElement[bool]:
    """True in a query while jobs may be taken up."""
    return ~sa.exists().select_from(drains)
