"""Versions behind names, and switches of aliases that no caller notices.

A replica may answer by an alias for ``LEASE_SECONDS`` after it was looked up. A switch is answered
only when that time has passed, and when the new version is in memory. So whoever was told of a
switch gets the new version from every replica, and no call pays for a look-up or for loading.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from services.classifier.loaded_model import LoadedModel
from services.classifier.model_cache import ModelCache
from services.classifier.models import ModelRegistry
from services.common.database.aliases import Alias

LEASE_SECONDS = 0.1
_Result = TypeVar("_Result")


class Versions:
    """Loaded versions by name; for one event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        cache: ModelCache,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registry, self._cache = registry, cache
        self._clock, self._sleep = clock, sleep
        self._leases: dict[tuple[str, str], tuple[str, float]] = {}
        self._lookups: dict[tuple[str, str], tuple[asyncio.Task[str], float]] = {}

    async def get(self, tenant: str, name: str) -> LoadedModel:
        """The version that ``name`` points at, loaded if need be.

        Args:
            tenant: Owner of the classifier.
            name: ``classifiers/{classifier}`` or ``aliases/{alias}``; empty: the default alias.

        Raises:
            InvalidArgument: If ``name`` is malformed.
            NotFound: If there is no such alias or classifier.
            DataLoss: If the files of the version are damaged.
            FailedPrecondition: If its CLIP base was changed or removed.
        """
        classifier_id = await self._id(tenant, name)
        return self._cache.find(tenant, classifier_id) or await self._load(tenant, classifier_id)

    async def set_alias(self, tenant: str, alias_name: str, model_name: str) -> Alias:
        """Points an alias at a loaded version; raises as ``ModelRegistry``."""
        check = partial(self._registry.check_alias, tenant, alias_name, model_name)
        await self._load(tenant, await asyncio.to_thread(check))
        return await self._switch(
            tenant, partial(self._registry.set_alias, tenant, alias_name, model_name)
        )

    async def rollback_alias(self, tenant: str, alias_name: str) -> Alias:
        """Points an alias back at its loaded version; raises as ``ModelRegistry``."""
        previous = await asyncio.to_thread(self._registry.check_rollback, tenant, alias_name)
        if previous:
            await self._load(tenant, previous)
        return await self._switch(
            tenant, partial(self._registry.rollback_alias, tenant, alias_name)
        )

    async def delete_alias(self, tenant: str, alias_name: str) -> None:
        """Removes an alias; raises as ``ModelRegistry``."""
        await self._switch(tenant, partial(self._registry.delete_alias, tenant, alias_name))

    async def _switch(self, tenant: str, change: Callable[[], _Result]) -> _Result:
        changed = await asyncio.to_thread(change)
        self._leases = {key: lease for key, lease in self._leases.items() if key[0] != tenant}
        await self._sleep(LEASE_SECONDS)
        return changed

    async def _load(self, tenant: str, classifier_id: str) -> LoadedModel:
        # Shielded: others may wait for the same version.
        return await asyncio.shield(asyncio.wrap_future(self._cache.load(tenant, classifier_id)))

    async def _id(self, tenant: str, name: str) -> str:
        key, now = (tenant, name), self._clock()
        found = self._leases.get(key)
        if found is not None and now < found[1]:
            return found[0]
        lookup = self._lookups.get(key)
        # One that began too long ago may have read what an alias meant before a switch.
        if lookup is None or lookup[0].done() or now - lookup[1] >= LEASE_SECONDS:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(tenant, name)), now
        try:
            return await asyncio.shield(lookup[0])
        finally:
            if lookup[0].done() and self._lookups.get(key) is lookup:
                del self._lookups[key]

    async def _look_up(self, tenant: str, name: str) -> str:
        until = self._clock() + LEASE_SECONDS
        found = await asyncio.to_thread(self._registry.resolve, tenant, name, "model")
        now = self._clock()
        self._leases = {key: lease for key, lease in self._leases.items() if lease[1] > now}
        self._leases[tenant, name] = (found, until)
        return found
