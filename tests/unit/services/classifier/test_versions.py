"""Names and versions: leases, shared look-ups, switches after loading."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.classifier.model_cache import ModelCache
from services.classifier.models import ModelRegistry
from services.classifier.versions import LEASE_SECONDS, Versions
from services.common.database.jobs import JobDatabase, migrate
from services.common.errors import DataLoss, FailedPrecondition, NotFound
from services.common.store.artifacts import ArtifactStore

TENANT = "lab"
ALIAS = "aliases/production"


class Rig:
    """Versions without networks, on a clock of the test."""

    def __init__(self, root: Path) -> None:
        url = f"sqlite:///{root}/jobs.db"
        migrate(url)
        store = ArtifactStore(f"file://{root}/store")
        for id in ("one", "two", "damaged"):
            draft = store.new_draft(TENANT, "classifiers", id)
            draft.write("note", b"no weights")
            draft.commit({"parents": [], "base": "", "base_revision": "", "digests": [], "seed": 0,
                          "settings": {}, "metrics": {}, "body": {}})  # fmt: skip
        self.now = 0.0
        self.loaded: list[str] = []
        self.num_lookups = 0
        self.slept: list[float] = []
        self.aliases = JobDatabase(url).aliases
        self.registry = ModelRegistry(store, self.aliases)
        self.replicas = [self.replica(), self.replica()]

    def replica(self) -> Versions:
        registry = self.registry
        rig = self

        class Counted:
            def __getattr__(self, name: str) -> Any:
                return getattr(registry, name)

            def resolve(self, tenant: str, name: str, field: str) -> str:
                rig.num_lookups += 1
                return registry.resolve(tenant, name, field)

        counted: Any = Counted()
        cache = ModelCache(self.load, max_models=4)
        return Versions(counted, cache, clock=lambda: self.now, sleep=self.sleep)

    def load(self, tenant: str, id: str) -> Any:
        if id == "damaged":
            raise DataLoss("its weights are damaged")
        self.loaded.append(id)
        return f"{tenant}/{id}"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_name_is_looked_up_once_in_a_lease(rig: Rig) -> None:
    async def run() -> None:
        versions = rig.replicas[0]
        for _ in range(3):
            assert await versions.get(TENANT, "classifiers/one") == "lab/one"
        assert rig.num_lookups == 1
        rig.now += LEASE_SECONDS
        await versions.get(TENANT, "classifiers/one")
        assert rig.num_lookups == 2

    asyncio.run(run())
    assert rig.loaded == ["one"]


def test_callers_at_once_share_a_look_up_and_a_load(rig: Rig) -> None:
    async def run() -> None:
        versions = rig.replicas[0]
        found = await asyncio.gather(*(versions.get(TENANT, "classifiers/one") for _ in range(20)))
        assert found == ["lab/one"] * 20

    asyncio.run(run())
    assert rig.num_lookups == 1 and rig.loaded == ["one"]


def test_whoever_is_told_of_a_switch_gets_the_new_version_from_every_replica(rig: Rig) -> None:
    async def run() -> None:
        here, there = rig.replicas
        await here.set_alias(TENANT, ALIAS, "classifiers/one")
        assert [await each.get(TENANT, "") for each in rig.replicas] == ["lab/one"] * 2
        switched = await here.set_alias(TENANT, ALIAS, "classifiers/two")
        assert switched.previous_classifier_id == "one"
        assert [await each.get(TENANT, "") for each in rig.replicas] == ["lab/two"] * 2
        await there.rollback_alias(TENANT, ALIAS)
        assert [await each.get(TENANT, ALIAS) for each in rig.replicas] == ["lab/one"] * 2
        await there.delete_alias(TENANT, ALIAS)
        for each in rig.replicas:
            with pytest.raises(NotFound):
                await each.get(TENANT, ALIAS)

    asyncio.run(run())
    assert rig.slept == [LEASE_SECONDS] * 4


def test_a_version_is_loaded_before_an_alias_points_at_it(rig: Rig) -> None:
    async def run() -> None:
        versions = rig.replicas[0]
        await versions.set_alias(TENANT, ALIAS, "classifiers/one")
        assert rig.loaded == ["one"]
        with pytest.raises(DataLoss):
            await versions.set_alias(TENANT, ALIAS, "classifiers/damaged")
        assert await versions.get(TENANT, "") == "lab/one"

    asyncio.run(run())


def test_a_rollback_to_nothing_is_refused(rig: Rig) -> None:
    async def run() -> None:
        versions = rig.replicas[0]
        await versions.set_alias(TENANT, ALIAS, "classifiers/one")
        with pytest.raises(FailedPrecondition):
            await versions.rollback_alias(TENANT, ALIAS)

    asyncio.run(run())


def test_a_caller_who_goes_away_takes_the_load_from_no_other(rig: Rig) -> None:
    async def run() -> None:
        versions = rig.replicas[0]
        gone = asyncio.ensure_future(versions.get(TENANT, "classifiers/one"))
        stays = asyncio.ensure_future(versions.get(TENANT, "classifiers/one"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == "lab/one"

    asyncio.run(run())


def test_names_that_do_not_exist_are_not_remembered(rig: Rig) -> None:
    async def run() -> None:
        versions = rig.replicas[0]
        with pytest.raises(NotFound):
            await versions.get(TENANT, ALIAS)
        rig.aliases.set(TENANT, "production", "two")
        assert await versions.get(TENANT, ALIAS) == "lab/two"

    asyncio.run(run())
