"""LRU cache of LoRA adapters, loaded in the background.

An entry is one file of LoRA weights with the prompts of its classes, encoded once with the text
encoder's LoRA.  Loading reads the store and runs the text encoder on a thread of its own; the
engine goes on meanwhile, and installs the result between two steps.  The memory of all entries
together stays within a budget, whatever the rank of each.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cytosynth.cell_classes import class_prompt
from services.common.errors import DataLoss, DomainError, FailedPrecondition, Unavailable
from services.common.models.lora import encode_with_lora, read_lora
from services.common.models.pipelines import PromptEmbeddings
from services.generator.engine.batched_lora import BatchedLora, LoraPair, PreparedAdapter
from services.generator.engine.denoiser import Condition
from services.generator.engine.row_tables import EMPTY

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline


_logger = logging.getLogger(__name__)
MIN_RESIDENT_SECONDS = 5.0
"""Time before an entry in use is evicted for others that wait."""
MAX_LOADING = 2
"""Entries being read, or waiting for room, beside those within the budget."""
MAX_FAILURES = 16
"""Failures kept for streams to ask for; later ones load again."""


@dataclass(frozen=True)
class Weights:
    """Weights that an image is sampled with.

    Attributes:
        key: Tenant, adapter, its digest and the path within it; for the base alone, the class.
        class_ids: Classes whose prompts are encoded with them.
        read: Gives the safetensors file; None: the base alone.
    """

    key: str
    class_ids: tuple[str, ...]
    read: Callable[[], bytes] | None = field(compare=False, default=None)


@dataclass
class _Loaded:
    adapter: PreparedAdapter
    prompts: dict[str, PromptEmbeddings]
    num_bytes: int


@dataclass
class _Entry:
    adapter: int
    prompts: dict[str, int]
    num_bytes: int
    num_references: int = 0
    installed: float = field(default_factory=time.monotonic)
    evicting: bool = False
    """Takes no more references, because others wait for its room."""


class AdapterCache:
    """LRU cache of one pipeline's adapters, with reference counts.

    All but the loading happens on the engine's thread.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        lora: BatchedLora,
        memory_bytes: int,
        wake: Callable[[], None],
    ) -> None:
        """Start empty.

        Args:
            pipeline: Its text encoders are used on the cache's own thread only.
            lora: Takes what is loaded.
            memory_bytes: What the entries may take together; one that is larger is refused.
            wake: Called from the cache's thread when something has been loaded.
        """
        self._pipeline, self._lora, self._wake = pipeline, lora, wake
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._requested: OrderedDict[str, Weights] = OrderedDict()
        self._loading: dict[str, tuple[Weights, Future[_Loaded]]] = {}
        self._failed: dict[int, tuple[Weights, DomainError]] = {}
        self._memory_bytes = self._free_bytes = memory_bytes
        self._numbers = itertools.count(1)
        self._loader = ThreadPoolExecutor(1, "adapters")

    def load(self, weights: Weights) -> bool:
        """Start loading, unless resident or on the way; says whether it does."""
        if any(weights.key in known for known in (self._entries, self._loading, self._requested)):
            return False
        self._requested[weights.key] = weights
        self._load_next()
        return True

    def install_loaded(self) -> None:
        """Install what has been loaded, evicting entries not in use.

        Entries installed by the same call stay, as nothing had the time to use them.  Where all
        are in use, the oldest takes no more references: requests for more adapters than there is
        room for alternate.
        """
        full, new = False, set[str]()
        for key, (weights, future) in list(self._loading.items()):
            if not future.done():
                continue
            error = future.exception()
            if isinstance(error, DomainError):
                self._keep_failure(weights, error)
            elif error is not None:
                raise error
            elif full or not self._install(weights, future.result(), new):
                full = True  # no room until images are finished; who came first gets it first
                continue
            else:
                new.add(key)
            del self._loading[key]
        self._load_next()
        if not full:
            for entry in self._entries.values():
                entry.evicting = False

    def failure(self, weights: Weights) -> DomainError | None:
        """Failure of the load that this very object began; told once.

        The next ``load`` tries again.  An equal object that waited for this load, or comes later,
        tries for itself.
        """
        _, error = self._failed.pop(id(weights), (None, None))
        return error

    def acquire(self, weights: Weights, class_id: str) -> tuple[Condition, Condition] | None:
        """Increment the reference count, which ``release`` decrements.

        Returns:
            Conditions with and without the class's prompt; None if the weights are not loaded or
            are being evicted.
        """
        entry = self._entries.get(weights.key)
        if entry is None or entry.evicting:
            return None
        self._failed.pop(id(weights), None)  # another has loaded them since
        entry.num_references += 1
        self._entries.move_to_end(weights.key)
        return (
            Condition(entry.adapter, entry.prompts[class_prompt(class_id)]),
            Condition(entry.adapter, entry.prompts[""]),
        )

    def release(self, weights: Weights) -> None:
        """Decrement the reference count."""
        self._entries[weights.key].num_references -= 1

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _load_next(self) -> None:
        while self._requested and len(self._loading) < MAX_LOADING:
            key, weights = self._requested.popitem(last=False)
            future = self._loader.submit(self._load, weights)
            self._loading[key] = weights, future
            future.add_done_callback(lambda _: self._wake())

    def _load(self, weights: Weights) -> _Loaded:
        prompts = ["", *dict.fromkeys(class_prompt(class_id) for class_id in weights.class_ids)]
        data = _read(weights)
        try:
            pairs = read_lora(self._pipeline, data) if data is not None else {}
            adapter = self._lora.prepare({name: LoraPair(*pair) for name, pair in pairs.items()})
            num_bytes = self._lora.num_bytes(adapter, len(prompts))
            self._check_size(weights, num_bytes)
            embeddings = encode_with_lora(self._pipeline, data, prompts)
        except DomainError:
            raise
        except Exception as error:  # peft, diffusers and safetensors each raise their own
            _logger.warning("%s does not fit the base", weights.key, exc_info=True)
            remedy = "fit the adapter again on this base"
            raise DataLoss("the adapter's weights do not fit the base", remedy) from error
        return _Loaded(adapter, dict(zip(prompts, embeddings, strict=True)), num_bytes)

    def _check_size(self, weights: Weights, num_bytes: int) -> None:
        if num_bytes > self._memory_bytes:
            takes, most = (f"{n / 2**20:.1f} MB" for n in (num_bytes, self._memory_bytes))
            problem = f"takes {takes} of memory ({len(weights.class_ids)} classes) of {most}"
            remedy = "raise CYTOSYNTH_GENERATOR_ADAPTER_MEMORY_MB, or fit it with a smaller rank"
            raise FailedPrecondition("adapter" if weights.read else "base", problem, remedy)

    def _keep_failure(self, weights: Weights, error: DomainError) -> None:
        self._failed[id(weights)] = weights, error  # with the weights, so that the id stays theirs
        if len(self._failed) > MAX_FAILURES:
            del self._failed[next(iter(self._failed))]  # most likely of a stream that was cancelled

    def _install(self, weights: Weights, loaded: _Loaded, keep: set[str]) -> bool:
        if not self._evict_unused(loaded.num_bytes, keep):
            self._begin_eviction(loaded.num_bytes)
            return False
        adapter = EMPTY
        if loaded.adapter.layers:
            adapter = next(self._numbers)
            self._lora.put_adapter(adapter, loaded.adapter)
        entry = _Entry(adapter, {}, loaded.num_bytes)
        for prompt, embeddings in loaded.prompts.items():
            entry.prompts[prompt] = next(self._numbers)
            self._lora.put_prompt(entry.prompts[prompt], embeddings, loaded.adapter)
        self._free_bytes -= entry.num_bytes
        self._entries[weights.key] = entry
        return True

    def _evict_unused(self, num_bytes: int, keep: set[str]) -> bool:
        """Evict unused entries, least recently used first; says whether there is room."""
        unused = [key for key, entry in self._entries.items() if not entry.num_references]
        for key in unused:
            if self._free_bytes >= num_bytes:
                break
            if key in keep:
                continue
            entry = self._entries.pop(key)
            self._lora.adapters.remove(entry.adapter)
            for prompt in entry.prompts.values():
                self._lora.prompts.remove(prompt)
            self._free_bytes += entry.num_bytes
        return self._free_bytes >= num_bytes

    def _begin_eviction(self, num_bytes: int) -> None:
        """Let the oldest entries run out of references until there is room."""
        num_bytes -= self._free_bytes
        latest = time.monotonic() - MIN_RESIDENT_SECONDS
        for entry in sorted(self._entries.values(), key=lambda entry: entry.installed):
            if num_bytes > 0 and (entry.evicting or entry.installed <= latest):
                entry.evicting = True
                num_bytes -= entry.num_bytes


def _read(weights: Weights) -> bytes | None:
    try:
        return weights.read() if weights.read else None
    except DomainError:
        raise
    except Exception as error:  # whatever the store's client raises while the store is away
        _logger.exception("an adapter could not be read")
        raise Unavailable("the adapter cannot be read for the moment") from error
