"""The most recently used classifier versions, in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from services.classifier.loaded_model import LoadedModel

_NUM_THREADS = 2


class ModelCache:
    """Loads each version once and keeps the most recently used ones; thread-safe.

    Versions are loaded in threads of their own, so that batches of others go on meanwhile.
    """

    def __init__(self, load: Callable[[str, str], LoadedModel], max_models: int) -> None:
        """Starts empty.

        Args:
            load: Loads a version by tenant and id.
            max_models: Versions to keep; the least recently used one is evicted.
        """
        self._load, self._max_models = load, max_models
        self._models: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
        self._loading: dict[tuple[str, str], Future[LoadedModel]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "load")

    @property
    def num_loaded(self) -> int:
        """Versions in memory."""
        return len(self._models)

    def find(self, tenant: str, classifier_id: str) -> LoadedModel | None:
        """Finds a version that is in memory."""
        key = (tenant, classifier_id)
        with self._lock:
            model = self._models.get(key)
            if model is not None:
                self._models.move_to_end(key)
        return model

    def load(self, tenant: str, classifier_id: str) -> Future[LoadedModel]:
        """Starts to load a version unless it is loaded or loading.

        Returns:
            A future that fails as the function that loads it.
        """
        key = (tenant, classifier_id)
        with self._lock:
            found: Future[LoadedModel] = Future()
            if (model := self._models.get(key)) is not None:
                self._models.move_to_end(key)
                found.set_result(model)
                return found
            if key not in self._loading:
                self._loading[key] = found
                self._threads.submit(self._run, key, found)
            return self._loading[key]

    def _run(self, key: tuple[str, str], loading: Future[LoadedModel]) -> None:
        try:
            model = self._load(*key)
        except Exception as error:
            with self._lock:
                del self._loading[key]
            loading.set_exception(error)
            return
        with self._lock:
            del self._loading[key]
            self._models[key] = model
            while len(self._models) > self._max_models:
                self._models.popitem(last=False)
        loading.set_result(model)
