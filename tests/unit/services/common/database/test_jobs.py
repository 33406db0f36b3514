"""A job is done once: leases, lost leases, cancellation and idempotency."""

import concurrent.futures
import multiprocessing
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from services.common.database import tables as job_tables
from services.common.database.jobs import JobDatabase, LeaseLost, Progress, migrate
from services.common.errors import AlreadyExists, InvalidArgument, NotFound


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def url(new_url) -> str:
    migrate(new_url)
    return new_url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(url, clock):
    database = JobDatabase(url, clock)
    yield database
    database.close()


def test_migrations_make_the_tables_that_the_code_expects(url):
    engine = job_tables.open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, job_tables.metadata) == []
    engine.dispose()


def test_many_processes_may_migrate_at_once(new_url):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(migrate, new_url) for _ in range(4)]:
            done.result()
    assert JobDatabase(new_url).list("local") == []


def test_new_job_is_pending_and_durable(url, database):
    job = database.create("local", "fit_adapter", {"dataset": "datasets/d", "steps": [1, 2]})
    assert (job.state, job.attempts, job.cancel_requested) == ("PENDING", 0, False)
    assert job.name == f"jobs/{job.id}"
    assert JobDatabase(url).get("local", job.id) == job


def test_same_key_and_spec_is_the_same_job(database):
    first = database.create("local", "fit_adapter", {"pair": (1, 2)}, "key")
    assert database.create("local", "fit_adapter", {"pair": (1, 2)}, "key") == first
    assert database.create("other", "fit_adapter", {}, "key").id != first.id
    assert len(database.list("local")) == 1


def test_key_of_another_request_is_refused(database):
    database.create("local", "fit_adapter", {"seed": 1}, "key")
    for kind, spec in (("fit_adapter", {"seed": 2}), ("report", {"seed": 1})):
        with pytest.raises(AlreadyExists, match="idempotency_key"):
            database.create("local", kind, spec, "key")
    with pytest.raises(InvalidArgument):
        database.create("local", "report", {}, "k" * 129)


def test_no_key_makes_a_new_job_each_time(database):
    assert database.create("local", "report", {}).id != database.create("local", "report", {}).id


def test_one_key_from_many_threads_makes_one_job(database):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: database.create("local", "report", {}, "key"), range(16)))
    assert len({job.id for job in jobs}) == 1


def test_jobs_are_listed_newest_first_by_state_and_tenant(database, clock):
    ids = []
    for _ in range(3):
        clock.now += 1
        ids.append(database.create("local", "report", {}).id)
    database.create("other", "report", {})
    assert [job.id for job in database.list("local")] == ids[::-1]
    database.lease("r", 10)
    assert [job.id for job in database.list("local", "RUNNING")] == ids[:1]
    with pytest.raises(NotFound):
        database.get("other", ids[0])


def test_oldest_job_is_leased_first_and_once(database, clock):
    first = database.create("local", "report", {})
    clock.now += 1
    second = database.create("local", "report", {})
    assert database.has_work()
    assert database.lease("a", 10).id == first.id
    assert database.lease("b", 10).id == second.id
    assert database.lease("c", 10) is None
    assert not database.has_work()


def test_heartbeat_keeps_the_lease_and_stores_progress(database, clock):
    job = database.create("local", "fit_adapter", {})
    database.lease("a", 10)
    for step in range(5):
        clock.now += 8
        progress = Progress("training", step, 100, 12.5, {"loss": 0.5})
        assert database.heartbeat(job.id, "a", 10, progress) == (False, False)
        assert database.lease("b", 10) is None
    seen = database.get("local", job.id)
    assert (seen.phase, seen.step, seen.total_steps, seen.eta_seconds) == ("training", 4, 100, 12.5)
    assert seen.metrics == {"loss": 0.5}


def test_lapsed_lease_goes_to_the_next_runner_with_the_checkpoint(database, clock):
    job = database.create("local", "fit_adapter", {})
    database.lease("a", 10)
    database.save_checkpoint(job.id, "a", "jobs/x/step-40")
    clock.now += 11
    taken = database.lease("b", 10)
    assert (taken.id, taken.checkpoint, taken.attempts) == (job.id, "jobs/x/step-40", 2)
    for act in (
        lambda: database.heartbeat(job.id, "a", 10),
        lambda: database.save_checkpoint(job.id, "a", "jobs/x/step-50"),
        lambda: database.succeed(job.id, "a", "adapters/a"),
        lambda: database.fail(job.id, "a", {}),
        lambda: database.cancelled(job.id, "a"),
        lambda: database.release(job.id, "a"),
    ):
        with pytest.raises(LeaseLost):
            act()
    database.succeed(job.id, "b", "adapters/b")
    assert database.get("local", job.id).result == "adapters/b"
    assert database.get("local", job.id).checkpoint == "jobs/x/step-40"


def test_late_heartbeat_renews_a_lease_that_nobody_took(database, clock):
    job = database.create("local", "fit_adapter", {})
    database.lease("a", 10)
    clock.now += 60
    database.heartbeat(job.id, "a", 10)
    assert database.lease("b", 10) is None


def test_final_job_stays_final(database):
    job = database.create("local", "fit_adapter", {})
    database.lease("a", 10)
    database.fail(job.id, "a", {"type": "DataLoss", "problem": "x", "remedy": ""})
    with pytest.raises(LeaseLost):
        database.succeed(job.id, "a", "adapters/a")
    assert database.request_cancel("local", job.id).state == "FAILED"
    assert database.get("local", job.id).error["type"] == "DataLoss"


def test_job_that_loses_its_runner_five_times_fails(database, clock):
    job = database.create("local", "fit_adapter", {})
    for attempt in range(1, 6):
        assert database.lease(f"runner-{attempt}", 10).attempts == attempt
        clock.now += 11
    assert database.lease("runner-6", 10) is None
    failed = database.get("local", job.id)
    assert failed.state == "FAILED"
    assert "lost 5 times" in failed.error["problem"]


def test_released_job_is_taken_up_again_without_counting_as_lost(database):
    job = database.create("local", "fit_adapter", {})
    for _ in range(9):
        assert database.lease("a", 10).id == job.id
        database.release(job.id, "a")
    assert database.get("local", job.id).state == "PENDING"


def test_cancel_reaches_the_runner(database):
    job = database.create("local", "fit_adapter", {})
    database.lease("a", 10)
    assert database.request_cancel("local", job.id).state == "RUNNING"
    assert database.heartbeat(job.id, "a", 10).cancel
    database.cancelled(job.id, "a")
    assert database.get("local", job.id).state == "CANCELLED"


def test_cancel_of_a_job_that_nobody_works_on_is_at_once(database, clock):
    pending = database.create("local", "report", {})
    assert database.request_cancel("local", pending.id).state == "CANCELLED"
    orphan = database.create("local", "report", {})
    database.lease("a", 10)
    clock.now += 11
    assert database.request_cancel("local", orphan.id).state == "CANCELLED"
    assert database.lease("b", 10) is None
    with pytest.raises(LeaseLost):
        database.heartbeat(orphan.id, "a", 10)
    with pytest.raises(NotFound):
        database.request_cancel("other", pending.id)


def test_runner_lost_after_a_cancel_does_not_start_the_job_again(database, clock):
    job = database.create("local", "report", {})
    database.lease("a", 10)
    database.request_cancel("local", job.id)
    clock.now += 11
    assert database.lease("b", 10) is None
    assert database.get("local", job.id).state == "CANCELLED"


def _lease_all(url: str, owner: str) -> list[str]:
    database, leased = JobDatabase(url), []
    while job := database.lease(owner, 60):
        leased.append(job.id)
    return leased


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_no_job_is_leased_twice_in_a_race(url, workers):
    database = JobDatabase(url)
    ids = {database.create("local", "report", {"n": n}).id for n in range(30)}
    if workers == "threads":
        pool = concurrent.futures.ThreadPoolExecutor(6)
    else:
        fork = multiprocessing.get_context("fork")
        pool = concurrent.futures.ProcessPoolExecutor(3, mp_context=fork)
    with pool:
        leased = list(pool.map(_lease_all, [url] * 4, [f"runner-{n}" for n in range(4)]))
    every = [id for part in leased for id in part]
    assert sorted(every) == sorted(ids)
    assert all(job.attempts == 1 for job in database.list("local"))


def test_old_and_new_runner_cannot_both_finish(url, clock):
    for _ in range(10):
        database = JobDatabase(url, clock)
        job = database.create("local", "report", {})
        database.lease("old", 10)
        clock.now += 11
        barrier, done = threading.Barrier(2), []

        def finish(old: bool, job=job, database=database, barrier=barrier, done=done) -> None:
            owner = "old" if old else "new"
            barrier.wait()
            if not old and database.lease("new", 10) is None:
                return
            try:
                database.succeed(job.id, owner, f"reports/{owner}")
                done.append(f"reports/{owner}")
            except LeaseLost:
                pass

        threads = [threading.Thread(target=finish, args=(old,)) for old in (True, False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [database.get("local", job.id).result]
        database.close()


def test_alias_points_and_rolls_back_through_its_history(database, clock):
    assert database.aliases.set("local", "production", "c1").previous_classifier_id is None
    for id in ("c2", "c2", "c3"):
        clock.now += 1
        database.aliases.set("local", "production", id)
    assert database.aliases.get("local", "production").previous_classifier_id == "c2"
    assert database.aliases.rollback("local", "production").classifier_id == "c2"
    assert database.aliases.rollback("local", "production").classifier_id == "c1"
    with pytest.raises(Exception, match="no earlier classifier"):
        database.aliases.rollback("local", "production")
    clock.now += 5
    again = database.aliases.set("local", "production", "c4")
    assert (again.classifier_id, again.previous_classifier_id) == ("c4", "c1")
    assert again.update_time.timestamp() == clock.now


def test_aliases_are_per_tenant(database):
    database.aliases.set("local", "b", "c1")
    database.aliases.set("local", "a", "c2")
    database.aliases.set("other", "z", "c3")
    assert [alias.alias for alias in database.aliases.list("local")] == ["a", "b"]
    with pytest.raises(NotFound, match="aliases/z"):
        database.aliases.get("local", "z")
    with pytest.raises(NotFound):
        database.aliases.rollback("local", "z")


def test_a_deleted_alias_means_nothing_until_it_is_set_again(database):
    for id in ("c1", "c2"):
        database.aliases.set("local", "production", id)
    database.aliases.delete("local", "production")
    assert database.aliases.list("local") == []
    for call in (database.aliases.get, database.aliases.rollback, database.aliases.delete):
        with pytest.raises(NotFound, match="aliases/production"):
            call("local", "production")
    assert database.aliases.set("local", "production", "c3").previous_classifier_id is None


def test_a_limit_keeps_the_newest_jobs(database, clock):
    for number in range(3):
        clock.now += 1
        database.create("local", "fit_adapter", {"number": number}, f"k{number}")
    assert [job.spec["number"] for job in database.list("local", limit=2)] == [2, 1]


def test_alias_set_by_many_at_once_keeps_every_change(database):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: database.aliases.set("local", "production", f"c{n}"), range(12)))
    with database._engine.connect() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(job_tables.alias_history))
    assert count == 12
