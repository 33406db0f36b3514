"""LoRA adapters in memory: loaded in the background, the least recently used given up first.

An entry is one file of LoRA weights with the prompts of its classes, encoded once with the text
encoder's LoRA.  Loading reads the store and runs the text encoder on a thread of its own; the
sampler goes on meanwhile, and takes the result in between two steps.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from services.common.bases import PromptEmbeddings
from services.common.cell_classes import class_prompt
from services.common.errors import DataLoss, DomainError, FailedPrecondition, Unavailable
from services.common.lora import encode_with_lora, read_lora
from services.generator.mixed_lora import LoraPair, MixedLora, PreparedAdapter
from services.generator.row_tables import EMPTY
from services.generator.sampler import Condition

if TYPE_CHECKING:
    from services.common.bases import Pipeline


_logger = logging.getLogger(__name__)
LEAST_SECONDS = 5.0
"""So long an entry may be used before it has to make room for others that wait."""
MOST_FAILURES = 16
"""So many failures are kept for who has yet to ask; who asks after that loads again."""


@dataclass(frozen=True)
class Weights:
    """Which weights draw an image.

    Attributes:
        key: Whose they are and what they hold: tenant, adapter, its digest and the path; for
            the base alone, the class.
        class_ids: Classes that they draw.
        read: Gives the safetensors file; None: the base alone.
    """

    key: str
    class_ids: tuple[str, ...]
    read: Callable[[], bytes] | None = field(compare=False, default=None)


@dataclass
class _Loaded:
    adapter: PreparedAdapter
    prompts: dict[str, PromptEmbeddings]


@dataclass
class _Entry:
    adapter: int
    prompts: dict[str, int]
    num_users: int = 0
    installed: float = field(default_factory=time.monotonic)
    leaving: bool = False
    """Takes no more users, because others wait for its room."""


class AdapterBank:
    """The adapters of one pipeline. All but the loading happens on the sampler's thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        lora: MixedLora,
        num_adapters: int,
        num_prompts: int,
        wake: Callable[[], None],
    ) -> None:
        """An empty bank.

        Args:
            pipeline: Its text encoders are used on the bank's own thread only.
            lora: Takes what is loaded.
            num_adapters: Entries of ``lora`` for adapters.
            num_prompts: Entries of ``lora`` for prompts.
            wake: Called from the bank's thread when something has been loaded.
        """
        self._pipeline, self._lora, self._wake = pipeline, lora, wake
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._loading: dict[str, tuple[Weights, Future[_Loaded]]] = {}
        self._failed: dict[int, tuple[Weights, DomainError]] = {}
        self._free_adapters = list(range(num_adapters, 0, -1))
        self._free_prompts = list(range(num_prompts, 0, -1))
        self._num_prompts = num_prompts
        self._loader = ThreadPoolExecutor(1, "adapters")

    def want(self, weights: Weights) -> bool:
        """Start loading, unless they are there or on their way; says whether it does."""
        if weights.key in self._entries or weights.key in self._loading:
            return False
        future = self._loader.submit(self._load, weights)
        self._loading[weights.key] = weights, future
        future.add_done_callback(lambda _: self._wake())
        return True

    def settle(self) -> None:
        """Take in what has been loaded since; entries in use are never given up for it.

        Where all are in use, the one that has been there longest takes no more users: requests
        for more adapters than there is room for take turns.
        """
        full = False
        for key, (weights, future) in list(self._loading.items()):
            if not future.done():
                continue
            error = future.exception()
            if isinstance(error, DomainError):
                self._keep_failure(weights, error)
            elif error is not None:
                raise error
            elif full or not self._install(weights, future.result()):
                full = True  # no room until images are finished; who came first gets it first
                continue
            del self._loading[key]
        if not full:
            for entry in self._entries.values():
                entry.leaving = False

    def failure(self, weights: Weights) -> DomainError | None:
        """Why the load failed that these very weights began, once; the next ``want`` tries again.

        Who waited for the load of another, or comes when that other has left, tries for itself.
        """
        _, error = self._failed.pop(id(weights), (None, None))
        return error

    def use(self, weights: Weights, class_id: str) -> tuple[Condition, Condition] | None:
        """Conditions with and without the class's prompt, kept until ``release``.

        Returns:
            None if the weights are not loaded, or have to make room.
        """
        entry = self._entries.get(weights.key)
        if entry is None or entry.leaving:
            return None
        self._failed.pop(id(weights), None)  # another has loaded them since
        entry.num_users += 1
        self._entries.move_to_end(weights.key)
        return (
            Condition(entry.adapter, entry.prompts[class_prompt(class_id)]),
            Condition(entry.adapter, entry.prompts[""]),
        )

    def release(self, weights: Weights) -> None:
        """One image less uses these weights."""
        self._entries[weights.key].num_users -= 1

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _load(self, weights: Weights) -> _Loaded:
        prompts = ["", *dict.fromkeys(class_prompt(class_id) for class_id in weights.class_ids)]
        if len(prompts) > self._num_prompts:
            problem = f"has {len(weights.class_ids)} classes"
            remedy = "raise CYTOSYNTH_GENERATOR_ADAPTER_MEMORY_MB, or fit one adapter per class"
            raise FailedPrecondition("adapter", problem, remedy)
        data = _read(weights)
        try:
            pairs = read_lora(self._pipeline, data) if data is not None else {}
            adapter = self._lora.prepare({name: LoraPair(*pair) for name, pair in pairs.items()})
            embeddings = encode_with_lora(self._pipeline, data, prompts)
        except Exception as error:  # peft, diffusers and safetensors each raise their own
            _logger.warning("%s does not fit the base", weights.key, exc_info=True)
            remedy = "fit the adapter again on this base"
            raise DataLoss("the adapter's weights do not fit the base", remedy) from error
        return _Loaded(adapter, dict(zip(prompts, embeddings, strict=True)))

    def _keep_failure(self, weights: Weights, error: DomainError) -> None:
        self._failed[id(weights)] = weights, error  # with the weights, so that the id stays theirs
        if len(self._failed) > MOST_FAILURES:
            del self._failed[next(iter(self._failed))]  # most likely of a stream that was cancelled

    def _install(self, weights: Weights, loaded: _Loaded) -> bool:
        num_adapters = 1 if loaded.adapter.layers else 0
        if not self._make_room(num_adapters, len(loaded.prompts)):
            self._ask_to_leave(num_adapters, len(loaded.prompts))
            return False
        adapter = self._free_adapters.pop() if num_adapters else EMPTY
        if adapter != EMPTY:
            self._lora.put_adapter(adapter, loaded.adapter)
        entry = _Entry(adapter, {})
        for prompt, embeddings in loaded.prompts.items():
            entry.prompts[prompt] = self._free_prompts.pop()
            self._lora.put_prompt(entry.prompts[prompt], embeddings, loaded.adapter)
        self._entries[weights.key] = entry
        return True

    def _make_room(self, num_adapters: int, num_prompts: int) -> bool:
        """Give up unused entries, oldest first, until there is room; says whether there is."""
        for key in [key for key, entry in self._entries.items() if not entry.num_users]:
            if self._fits(num_adapters, num_prompts):
                break
            entry = self._entries.pop(key)
            if entry.adapter != EMPTY:
                self._free_adapters.append(entry.adapter)
            self._free_prompts += entry.prompts.values()
        return self._fits(num_adapters, num_prompts)

    def _ask_to_leave(self, num_adapters: int, num_prompts: int) -> None:
        """Let entries run out of users until there would be room, the longest there first."""
        num_adapters -= len(self._free_adapters)
        num_prompts -= len(self._free_prompts)
        latest = time.monotonic() - LEAST_SECONDS
        for entry in sorted(self._entries.values(), key=lambda entry: entry.installed):
            helps = num_prompts > 0 or (num_adapters > 0 and entry.adapter != EMPTY)
            if helps and (entry.leaving or entry.installed <= latest):
                entry.leaving = True
                num_adapters -= entry.adapter != EMPTY
                num_prompts -= len(entry.prompts)

    def _fits(self, num_adapters: int, num_prompts: int) -> bool:
        enough = len(self._free_adapters) >= num_adapters
        return enough and len(self._free_prompts) >= num_prompts


def _read(weights: Weights) -> bytes | None:
    try:
        return weights.read() if weights.read else None
    except DomainError:
        raise
    except Exception as error:  # whatever the store's client raises while the store is away
        _logger.exception("an adapter could not be read")
        raise Unavailable("the adapter cannot be read for the moment") from error


def num_entries(pipeline: Pipeline, memory_bytes: int, itemsize: int, rank: int) -> tuple[int, int]:
    """Adapters and prompts that a memory budget holds; at least 2 and 32.

    Args:
        pipeline: For the sizes of its layers; every linear and convolution layer is counted.
        memory_bytes: The budget.
        itemsize: Bytes of one number.
        rank: LoRA rank that is counted on; larger adapters take accordingly more.
    """
    unet, per_adapter = pipeline.unet, 0
    for module in unet.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            out, *inner = module.weight.shape
            per_adapter += rank * (out + torch.Size(inner).numel()) * itemsize
    num_tokens = pipeline.tokenizer.model_max_length
    widths = [
        layer.out_features
        for name, layer in unet.named_modules()
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    per_prompt = num_tokens * (sum(widths) + unet.config.cross_attention_dim) * itemsize
    fitting = memory_bytes // (per_adapter + 4 * per_prompt)
    adapters = max(2, min(1024, fitting))
    return adapters, max(32, 4 * adapters)
