"""Withholds near-duplicates of an adapter's training images and generates them again.

Whether an image is a near-duplicate depends on its pixels and the adapter alone.  The seed of
attempt k depends on class, request seed, index and k.  So the image that is delivered in the end is
the same on every replica, from any point of resumption and beside any others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from services.common.errors import FailedPrecondition
from services.common.images.near_duplicates import NEAR_DUPLICATE_HASHES, NearDuplicateHashes
from services.common.images.seeds import MAX_ATTEMPTS
from services.common.resource_names import ADAPTERS
from services.common.store.artifacts import ArtifactStore
from services.generator.engine.streams import ImageTask
from services.generator.plan import SynthesisPlan

_NUM_KEPT = 64
"""Adapters whose hashes stay in memory: 64 bytes per training image."""


class NearDuplicateFilter:
    """Tells the near-duplicates among the images of a replica."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self._lock = store, threading.Lock()
        self._hashes: OrderedDict[tuple[str, str, str], NearDuplicateHashes] = OrderedDict()

    def hashes(self, plan: SynthesisPlan) -> NearDuplicateHashes | None:
        """Hashes of the adapter's training images; None where it has none.

        Raises:
            NotFound: If the adapter has been deleted meanwhile.
            DataLoss: If its hashes are damaged.
        """
        adapter = plan.adapter
        if adapter is None or not adapter.has_hashes:
            return None
        key = (plan.tenant, adapter.adapter_id, adapter.digest)
        with self._lock:
            found = self._hashes.get(key)
        if found is None:
            data = self._store.read(
                plan.tenant, ADAPTERS, adapter.adapter_id, NEAR_DUPLICATE_HASHES
            )
            found = NearDuplicateHashes.from_json(data)
        with self._lock:
            self._hashes[key] = found
            self._hashes.move_to_end(key)
            while len(self._hashes) > _NUM_KEPT:
                self._hashes.popitem(last=False)
        return found


def next_attempt(plan: SynthesisPlan, task: ImageTask) -> ImageTask | None:
    """The task in place of a near-duplicate; None after ``MAX_ATTEMPTS``."""
    attempt = task.attempt + 1
    if attempt >= MAX_ATTEMPTS:
        return None
    seed = plan.image_seed(task.class_id, task.index, attempt)
    return replace(task, image_seed=seed, attempt=attempt)


def only_near_duplicates(plan: SynthesisPlan, task: ImageTask) -> FailedPrecondition:
    """Error that says why there is no image at a task's index."""
    assert plan.adapter is not None
    problem = (
        f"gave {MAX_ATTEMPTS} near-duplicates of its training images and nothing else "
        f"for image {task.index} ({task.class_id})"
    )
    remedy = "fit an adapter again with fewer steps or on more images, or send another seed"
    return FailedPrecondition(plan.adapter.name, problem, remedy)
