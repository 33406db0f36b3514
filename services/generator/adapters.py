"""LoRA adapters: what the store says of one, and a shelf of loaded ones in a pipeline.

An adapter artifact holds ``shared/pytorch_lora_weights.safetensors`` (one LoRA for all its
classes) or ``<class_id>/pytorch_lora_weights.safetensors`` (one per class).
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.common.artifact_store import ArtifactStore
from services.common.bases import Base, PromptEmbeddings, encode_prompts
from services.common.cell_classes import class_prompt
from services.common.errors import DataLoss, FailedPrecondition, InvalidArgument
from services.common.lora import WEIGHTS_FILE, load_lora
from services.common.resource_names import ADAPTERS, build

if TYPE_CHECKING:
    import torch

    from services.common.bases import Pipeline

_NO_ADAPTER = ""
_UNKNOWN = "?"  # after a change that failed half way


@dataclass(frozen=True)
class AdapterRef:
    """An adapter as its manifest describes it.

    Attributes:
        adapter_id: Last part of its resource name.
        digest: SHA-256 (hex) of its manifest, which names the digests of its files.
        layout: "shared" or "per_class".
        class_ids: Classes that it was fitted on.
        base: Name of the base it was fitted on.
        base_revision: And that base's revision then.
    """

    adapter_id: str
    digest: str
    layout: str
    class_ids: tuple[str, ...]
    base: str
    base_revision: str

    @property
    def name(self) -> str:
        """Resource name."""
        return build(ADAPTERS, self.adapter_id)

    def weights_path(self, class_id: str) -> str:
        """Path, within the artifact, of the weights that draw a class."""
        folder = "shared" if self.layout == "shared" else class_id
        return f"{folder}/{WEIGHTS_FILE}"


def describe_adapter(store: ArtifactStore, tenant: str, adapter_id: str) -> AdapterRef:
    """Read an adapter's manifest.

    Raises:
        NotFound: If this tenant has no such adapter.
        DataLoss: If its manifest lacks what the generator needs.
    """
    manifest = store.get_manifest(tenant, ADAPTERS, adapter_id)
    body = manifest.get("body", manifest)
    try:
        ref = AdapterRef(
            adapter_id=adapter_id,
            digest=store.manifest_digest(tenant, ADAPTERS, adapter_id),
            layout=str(body["layout"]),
            class_ids=tuple(body["class_ids"]),
            base=str(manifest["base"]),
            base_revision=str(manifest["base_revision"]),
        )
    except KeyError as missing:
        problem = f"{build(ADAPTERS, adapter_id)}: its manifest has no {missing}"
        raise DataLoss(problem, "fit the adapter again") from missing
    if ref.layout not in ("shared", "per_class"):
        raise DataLoss(f"{ref.name}: unknown layout {ref.layout!r}", "fit the adapter again")
    return ref


def check_base(adapter: AdapterRef, base: Base) -> None:
    """Check that an adapter was fitted on exactly this base.

    Raises:
        InvalidArgument: If it was fitted on a base of another name.
        FailedPrecondition: If the base's weights have changed since.
    """
    if adapter.base != base.name:
        problem = f"{adapter.name} was fitted on base {adapter.base!r}, not on {base.name!r}"
        remedy = f"leave base empty or send {adapter.base!r}, or fit an adapter on {base.name!r}"
        raise InvalidArgument("adapter", problem, remedy)
    if adapter.base_revision != base.revision:
        problem = f"was fitted on another revision of base {base.name!r} than this server has"
        raise FailedPrecondition(adapter.name, problem, "fit the adapter again on this base")


class AdapterShelf:
    """Loaded LoRA weights of one pipeline, the least recently used given up first.

    Switching costs no reload of the pipeline. Prompt embeddings (which the text encoder's
    LoRA changes) are computed once per weights and class. Not safe to share between threads.
    """

    def __init__(self, pipeline: Pipeline, capacity: int) -> None:
        self._pipeline, self._capacity = pipeline, capacity
        self._loaded: OrderedDict[str, dict[str, PromptEmbeddings]] = OrderedDict()
        self._base_prompts: dict[str, PromptEmbeddings] = {}
        self._active = _NO_ADAPTER
        self._unmerged: list[tuple[Any, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self._loaded)

    def activate(self, key: str, read_weights: Callable[[], bytes]) -> None:
        """Make the weights called ``key`` those that draw; an empty key is the base alone.

        Args:
            key: Stands for the weights' content, for example adapter digest and path.
            read_weights: Called where they are not loaded: the safetensors file.

        Raises:
            DataLoss: If the weights do not fit the pipeline.
        """
        if key == self._active:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return
        self._active = _UNKNOWN
        self._unmerge()
        if key == _NO_ADAPTER:
            if self._loaded:
                self._pipeline.disable_lora()
        else:
            self._make_loaded(key, read_weights)
            self._pipeline.enable_lora()
            self._pipeline.set_adapters([_peft_name(key)])
            self._merge()
        self._active = key

    def prompt(self, class_id: str | None) -> PromptEmbeddings:
        """Embedding of a class (None: of the empty prompt) under the active weights.

        Returns:
            ``tokens`` (T, C) and ``pooled`` (P,) or None.
        """
        cache = self._loaded[self._active] if self._active else self._base_prompts
        text = class_prompt(class_id) if class_id is not None else ""
        if text not in cache:
            import torch

            with torch.inference_mode():
                # One prompt at a time, so that its bits do not depend on the others.
                many = encode_prompts(self._pipeline, [text])
            pooled = many.pooled[0] if many.pooled is not None else None
            cache[text] = PromptEmbeddings(many.tokens[0], pooled)
        return cache[text]

    def _merge(self) -> None:
        """Add the active LoRA to the UNet's weights: a third less work for every step."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self._pipeline.unet.modules():
            if isinstance(layer, BaseTunerLayer):
                weight = layer.get_base_layer().weight
                self._unmerged.append((layer, weight.detach().clone()))
                layer.merge()

    def _unmerge(self) -> None:
        # Restored from a copy: subtracting what was added would leave rounding behind, and
        # an image would depend on the adapters used before.
        for layer, weight in self._unmerged:
            layer.get_base_layer().weight.data.copy_(weight)
            layer.merged_adapters.clear()
        self._unmerged.clear()

    def _make_loaded(self, key: str, read_weights: Callable[[], bytes]) -> None:
        if key not in self._loaded:
            weights = read_weights()
            while len(self._loaded) >= self._capacity:
                oldest, _ = self._loaded.popitem(last=False)
                self._pipeline.delete_adapters(_peft_name(oldest))
            self._load(_peft_name(key), weights)
            self._loaded[key] = {}
        self._loaded.move_to_end(key)

    def _load(self, name: str, weights: bytes) -> None:
        try:
            load_lora(self._pipeline, weights, name)
        except Exception as error:  # peft, diffusers and safetensors each raise their own
            with contextlib.suppress(Exception):
                self._pipeline.delete_adapters(name)
            remedy = "fit the adapter again on this base"
            raise DataLoss("the adapter's weights do not fit the base", remedy) from error


def _peft_name(key: str) -> str:
    return key.replace(".", "_").replace("/", "_")
