"""Durable jobs, each run by the holder of its lease.

A runner leases a job, renews the lease with ``heartbeat`` and ends it with ``succeed``,
``fail`` or ``cancelled``.  A lease that lapses goes to the next runner, which continues
from ``checkpoint``; the first one finds out by ``LeaseLost`` and must stop.  Every change
is one compare-and-set, so it is atomic on SQLite and on PostgreSQL alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from cytosynth.traces import request_id_var, traceparent_var
from services.common import resource_names
from services.common.database.aliases import Aliases
from services.common.database.deletions import Deletions
from services.common.database.drains import Drains, no_drain
from services.common.database.migrate import migrate
from services.common.database.tables import first_row, jobs, open_engine
from services.common.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable

__all__ = ["FINAL_STATES", "Asked", "Job", "JobDatabase", "LeaseLost", "Progress", "migrate"]

PENDING, RUNNING = "PENDING", "RUNNING"
SUCCEEDED, FAILED, CANCELLED = "SUCCEEDED", "FAILED", "CANCELLED"
FINAL_STATES = (SUCCEEDED, FAILED, CANCELLED)
MAX_ATTEMPTS = 5
MAX_LISTED = 1000
_MAX_KEY_LENGTH = 128


class LeaseLost(Exception):
    """The runner no longer holds the job and must not write."""


class Asked(NamedTuple):
    """Requests to a job's runner: cancel the job, or release it."""

    cancel: bool
    drain: bool


@dataclass(frozen=True)
class Progress:
    """Progress of a job.

    ``total_steps`` and ``eta_seconds`` are 0 while unknown.
    """

    phase: str = ""
    step: int = 0
    total_steps: int = 0
    eta_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job as stored.

    ``error`` is a ``DomainError.to_dict()``, set when FAILED. ``request_id`` and ``traceparent``
    are those of the call that asked for the job first.
    """

    id: str
    tenant: str
    kind: str
    spec: dict[str, Any]
    state: str
    phase: str
    step: int
    total_steps: int
    eta_seconds: float
    metrics: dict[str, float]
    result: str
    error: dict[str, Any] | None
    checkpoint: str
    attempts: int
    create_time: datetime
    update_time: datetime
    cancel_requested: bool
    request_id: str = ""
    traceparent: str = ""

    @property
    def name(self) -> str:
        """Resource name, ``jobs/<id>``."""
        return resource_names.build(resource_names.JOBS, self.id)

    @property
    def is_final(self) -> bool:
        """Whether the job will not change any more."""
        return self.state in FINAL_STATES


class JobDatabase:
    """All tenants' jobs and the other stores of one database.

    Safe to share between threads.

    Attributes:
        aliases: names of classifiers.
        drains: whether jobs are taken up.
        deletions: artifacts that were deleted for good.
    """

    def __init__(self, database_url: str, clock: Callable[[], float] = time.time) -> None:
        """Opens a migrated database.

        Args:
            database_url: ``sqlite:///<path>`` or ``postgresql+psycopg://…``.
            clock: Seconds since 1970; the runners' clocks must agree to within a lease.
        """
        self._engine, self._clock = open_engine(database_url), clock
        self.aliases = Aliases(self._engine, clock)
        self.drains = Drains(self._engine, clock)
        self.deletions = Deletions(self._engine, clock)

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def create(
        self, tenant: str, kind: str, spec: Mapping[str, object], idempotency_key: str = ""
    ) -> Job:
        """A new PENDING job, or the job of the same key.

        The job is the work of the request that the calling thread works for.

        Raises:
            InvalidArgument: If the key is too long.
            AlreadyExists: If the key was used for something else.
        """
        if len(idempotency_key) > _MAX_KEY_LENGTH:
            raise InvalidArgument(
                "idempotency_key",
                f"has {len(idempotency_key)} characters",
                f"send at most {_MAX_KEY_LENGTH}",
            )
        spec = json.loads(json.dumps(spec))  # as it will come back
        now = self._clock()
        row = {
            "id": resource_names.new_id(resource_names.JOBS),
            "tenant": tenant,
            "kind": kind,
            "spec": spec,
            "idempotency_key": idempotency_key or None,
            "state": PENDING,
            "checkpoint": "",
            "result": "",
            "attempts": 0,
            "losses": 0,
            "cancel_requested": False,
            "request_id": request_id_var.get(),
            "traceparent": traceparent_var.get(),
            "create_time": now,
            "update_time": now,
            **_columns(Progress()),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(jobs.insert().values(row))
        except sa.exc.IntegrityError:
            job = self._by_key(tenant, idempotency_key)
            if (job.kind, job.spec) != (kind, spec):
                raise AlreadyExists(
                    job.name,
                    f"idempotency_key {idempotency_key!r} was used with another request; "
                    "send a new key",
                ) from None
            return job
        return self.get(tenant, row["id"])

    def get(self, tenant: str, id: str) -> Job:
        """The tenant's job; raises NotFound."""
        query = sa.select(jobs).where(jobs.c.tenant == tenant, jobs.c.id == id)
        row = first_row(self._engine, query)
        if row is None:
            raise NotFound(f"jobs/{id}", "list jobs to see what there is")
        return _job(row)

    def list(self, tenant: str, state: str | None = None, limit: int = MAX_LISTED) -> list[Job]:
        """The tenant's jobs, newest first, at most ``limit``."""
        query = sa.select(jobs).where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == state)
        query = query.order_by(jobs.c.create_time.desc(), jobs.c.id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query)]

    def all_jobs(self) -> Iterator[Job]:
        """Every tenant's jobs, oldest first."""
        query = sa.select(jobs).order_by(jobs.c.create_time, jobs.c.id)
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                yield _job(row)

    def num_held(self, host: str = "") -> int:
        """Number of jobs that runners hold, on all hosts or one."""
        held = sa.and_(jobs.c.state == RUNNING, jobs.c.lease_expires >= self._clock())
        if host:
            held &= jobs.c.lease_owner.startswith(f"{host}-", autoescape=True)
        return int(first_row(self._engine, sa.select(sa.func.count()).where(held))[0])

    def has_work(self) -> bool:
        """Whether ``lease`` would find a job now."""
        return first_row(self._engine, self._leasable(self._clock()).limit(1)) is not None

    def lease(self, owner: str, seconds: float) -> Job | None:
        """Leases the oldest free job for ``seconds`` from now.

        While a drain is on there is nothing to do.
        A job whose runner was lost for the fifth time fails instead of going round again.

        Args:
            owner: Unique to this runner process and to this leasing loop.
            seconds: Until when a heartbeat must come.

        Returns:
            The job, RUNNING, or None if there is nothing to do.
        """
        while True:
            now = self._clock()
            row = first_row(self._engine, self._leasable(now).limit(1))
            if row is None:
                return None
            losses = row.losses + (row.state == RUNNING)
            if row.cancel_requested:
                changes: dict[str, Any] = {"state": CANCELLED}
            elif losses >= MAX_ATTEMPTS:
                lost = Unavailable(f"the job's runner was lost {losses} times", 0.0)
                changes = {"state": FAILED, "error": lost.to_dict()}
            else:
                changes = {
                    "state": RUNNING,
                    "attempts": row.attempts + 1,
                    "lease_owner": owner,
                    "lease_expires": now + seconds,
                }
            taken = self._update(
                jobs.c.id == row.id,
                jobs.c.state == row.state,
                jobs.c.attempts == row.attempts,
                jobs.c.lease_expires.is_not_distinct_from(row.lease_expires),
                losses=losses,
                **changes,
            )
            if taken and changes["state"] == RUNNING:
                return self.get(row.tenant, row.id)

    def heartbeat(
        self, id: str, owner: str, seconds: float, progress: Progress | None = None
    ) -> Asked:
        """Renews the lease and stores progress.

        Returns:
            What the job is asked to do.

        Raises:
            LeaseLost: If the job is no longer this owner's.
        """
        changes = {} if progress is None else _columns(progress)
        self._as_owner(id, owner, lease_expires=self._clock() + seconds, **changes)
        query = sa.select(jobs.c.cancel_requested, no_drain()).where(jobs.c.id == id)
        row = first_row(self._engine, query)
        return Asked(bool(row[0]), not row[1]) if row is not None else Asked(False, False)

    def save_checkpoint(self, id: str, owner: str, uri: str) -> None:
        """Stores where to continue from; raises LeaseLost."""
        self._as_owner(id, owner, checkpoint=uri)

    def succeed(self, id: str, owner: str, result: str) -> None:
        """Ends the job with its result's resource name; raises LeaseLost."""
        step = sa.case((jobs.c.total_steps > 0, jobs.c.total_steps), else_=jobs.c.step)
        self._as_owner(id, owner, state=SUCCEEDED, result=result, eta_seconds=0.0, step=step)

    def fail(self, id: str, owner: str, error: dict[str, Any]) -> None:
        """Ends the job with a ``DomainError.to_dict()``; raises LeaseLost."""
        self._as_owner(id, owner, state=FAILED, error=error, eta_seconds=0.0)

    def cancelled(self, id: str, owner: str) -> None:
        """Ends the job as its caller asked; raises LeaseLost."""
        self._as_owner(id, owner, state=CANCELLED, eta_seconds=0.0)

    def release(self, id: str, owner: str) -> None:
        """Releases the job for another runner; raises LeaseLost."""
        self._as_owner(id, owner, state=PENDING, lease_owner=None, lease_expires=None)

    def request_cancel(self, tenant: str, id: str) -> Job:
        """Asks the job to stop.

        A job without runner stops at once; one that is final already stays as it is.

        Raises:
            NotFound: If the tenant has no such job.
        """
        self.get(tenant, id)
        now = self._clock()
        asked = self._update(
            jobs.c.id == id, jobs.c.state.in_((PENDING, RUNNING)), cancel_requested=True
        )
        if asked:
            self._update(jobs.c.id == id, _unheld(now), state=CANCELLED)
        return self.get(tenant, id)

    def _by_key(self, tenant: str, key: str) -> Job:
        query = sa.select(jobs).where(jobs.c.tenant == tenant, jobs.c.idempotency_key == key)
        return _job(first_row(self._engine, query))

    def _leasable(self, now: float) -> sa.Select[Any]:
        unheld = sa.select(jobs).where(_unheld(now), no_drain())
        return unheld.order_by(jobs.c.create_time, jobs.c.id)

    def _as_owner(self, id: str, owner: str, **changes: Any) -> None:
        mine = (jobs.c.id == id, jobs.c.state == RUNNING, jobs.c.lease_owner == owner)
        if not self._update(*mine, **changes):
            raise LeaseLost(f"{owner} no longer holds jobs/{id}")

    def _update(self, *conditions: sa.ColumnElement[bool], **changes: Any) -> bool:
        with self._engine.begin() as connection:
            update = jobs.update().where(*conditions)
            result = connection.execute(update.values(update_time=self._clock(), **changes))
            return bool(result.rowcount)


def _unheld(now: float) -> sa.ColumnElement[bool]:
    lapsed = sa.and_(jobs.c.state == RUNNING, jobs.c.lease_expires < now)
    return sa.or_(jobs.c.state == PENDING, lapsed)


def _columns(progress: Progress) -> dict[str, Any]:
    return asdict(progress)


def _job(row: Any) -> Job:
    values = {name: getattr(row, name) for name in Job.__dataclass_fields__}
    for name in ("create_time", "update_time"):
        values[name] = datetime.fromtimestamp(values[name], UTC)
    return Job(**values)
