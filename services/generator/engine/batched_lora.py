"""LoRA of many adapters in one batch: every row has its own.

A layer's output for row *i* gains ``up[i] @ (down[i] @ x[i])`` (Hu et al. 2021), as one batched
product for the whole batch. Row weights are inputs, not modules: another adapter never reloads,
re-injects or recompiles anything.

Cross-attention sees the prompt alone, which does not change from step to step.  So its keys and
values, LoRA included, are computed once per adapter and prompt and picked per row as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from services.common.models.pipelines import PromptEmbeddings
from services.generator.engine.row_tables import EMPTY, RowTable, send

MIN_RANK = 16
"""Rank to which smaller ones are padded; larger: to powers of two."""


@dataclass(frozen=True)
class LoraPair:
    """LoRA of one layer.

    Attributes:
        down: (r, in) or (r, in, k, k).
        up: (out, r), alpha / r included.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True)
class PreparedAdapter:
    """A checked adapter on the device, as the row tables take it.

    Attributes:
        layers: By layer: padded rank; ``down`` (in, k·k·rank) and ``up`` (rank, out).
        crosses: LoRA of cross-attention's keys and values, float32.
    """

    layers: dict[str, tuple[int, torch.Tensor, torch.Tensor]]
    crosses: dict[str, LoraPair]


class BatchedLora:
    """A UNet with LoRA and cross-attention keys per row of the batch."""

    def __init__(self, unet: UNet2DConditionModel, batch_rows: int, num_tokens: int) -> None:
        """Prepare an unadapted UNet.

        Args:
            unet: Stays what it is for rows without an adapter.
            batch_rows: Rows of the largest batch.
            num_tokens: Length of a prompt.
        """
        self._unet = unet
        self.adapters = RowTable(batch_rows, unet.dtype, unet.device)
        self.prompts = RowTable(batch_rows, unet.dtype, unet.device)
        self._layers: dict[str, _LoraLinear | _LoraConv] = {}
        self._crosses = {name: a for name, a in _attentions(unet) if a.is_cross_attention}
        width = int(unet.config.cross_attention_dim)
        shapes: dict[str, tuple[int, ...]] = {"tokens": (num_tokens, width)}
        for name, attention in self._crosses.items():
            for part in ("k", "v"):
                inner = getattr(attention, f"to_{part}").out_features
                shapes[f"{name}.{part}"] = (num_tokens, inner)
        pooled = _pooled_width(unet)
        if pooled:
            shapes["pooled"] = (pooled,)
        self.prompts.grow(shapes)
        numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
        self._bytes_per_prompt = numbers * unet.dtype.itemsize
        for _, attention in _attentions(unet):
            attention.set_processor(_SelfAttention())
        for name, attention in self._crosses.items():
            keys, values = (self.prompts.rows(part) for part in (f"{name}.k", f"{name}.v"))
            attention.set_processor(_CrossAttention(keys, values))
        self.fixed_kernels = False
        """Run the LoRA kernels without adapters too, as compiled code must."""
        self.structure = 0
        """Incremented whenever layers get LoRA that had none: kernels then change, once."""

    def prepare(self, weights: Mapping[str, LoraPair]) -> PreparedAdapter:
        """Check an adapter and bring it to the device; on any thread.

        Raises:
            ValueError: Naming the layer that does not exist, has another shape or is of a kind
                that cannot have LoRA per row.
        """
        prepared = PreparedAdapter({}, {})
        for name, pair in weights.items():
            layer = self._original(name)
            if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                raise ValueError(f"{name} is no linear or convolution layer of this base")
            expected = (pair.down.shape[0], *layer.weight.shape[1:])
            up = (layer.weight.shape[0], pair.down.shape[0])
            if tuple(pair.down.shape) != expected or tuple(pair.up.shape) != up:
                raise ValueError(f"{name} has other shapes than this base")
            if isinstance(layer, torch.nn.Conv2d):
                _check_convolution(name, layer)
            device, dtype = self._unet.device, self._unet.dtype
            if self._is_cross_key(name):
                prepared.crosses[name] = LoraPair(
                    *(send(m.float(), device) for m in (pair.down, pair.up))
                )
            else:
                rank = _padded_rank(pair.down.shape[0])
                own_down, own_up = (send(m.to(dtype), device) for m in _arranged(pair, rank))
                prepared.layers[name] = rank, own_down, own_up
        return prepared

    def num_bytes(self, adapter: PreparedAdapter, num_prompts: int) -> int:
        """Memory of a loaded adapter and its prompts, in the UNet's arithmetic."""
        matrices = sum(down.nbytes + up.nbytes for _, down, up in adapter.layers.values())
        return matrices + num_prompts * self._bytes_per_prompt

    def put_adapter(self, entry: int, adapter: PreparedAdapter) -> None:
        """Fill adapter ``entry``; its cross-attention keys and values come with its prompts."""
        parts: dict[str, torch.Tensor] = {}
        for name, (rank, down, up) in adapter.layers.items():
            own = dict(zip(_parts(name, rank), (down, up), strict=True))
            parts |= own
            if self.adapters.grow({part: tuple(tensor.shape) for part, tensor in own.items()}):
                if name not in self._layers:
                    self._layers[name] = _wrap(self._unet, name, self._original(name))
                down, up = (self.adapters.rows(part) for part in own)
                self._layers[name].ranks[rank] = (down, up)
                self.structure += 1
        self.adapters.put(entry, parts)

    def put_prompt(
        self, entry: int, embeddings: PromptEmbeddings, adapter: PreparedAdapter
    ) -> None:
        """Fill prompt ``entry``: ``tokens`` (T, C) and ``pooled`` under ``adapter``."""
        tokens = embeddings.tokens.to(self._unet.device, torch.float32)
        parts = {"tokens": tokens}
        for name, attention in self._crosses.items():
            for part in ("k", "v"):
                layer = getattr(attention, f"to_{part}")
                bias = None if layer.bias is None else layer.bias.float()
                out = F.linear(tokens, layer.weight.float(), bias)
                pair = adapter.crosses.get(f"{name}.to_{part}")
                if pair is not None:
                    out = out + tokens @ pair.down.T @ pair.up.T
                parts[f"{name}.{part}"] = out
        if embeddings.pooled is not None:
            parts["pooled"] = embeddings.pooled
        self.prompts.put(entry, parts)

    def select(self, adapters: list[int], prompts: list[int]) -> None:
        """Let the first rows use these entries."""
        self.adapters.select(adapters)
        self.prompts.select(prompts)
        adapted = self.fixed_kernels or any(entry != EMPTY for entry in adapters)
        for layer in self._layers.values():
            layer.adapted = adapted

    def conditions(self, num_rows: int) -> dict[str, torch.Tensor]:
        """Prompts: ``tokens`` (N, T, C) and SDXL's ``pooled`` (N, P)."""
        names = ["tokens"] + (["pooled"] if _pooled_width(self._unet) else [])
        return {name: self.prompts.rows(name)[:num_rows] for name in names}

    def _is_cross_key(self, name: str) -> bool:
        attention, _, part = name.rpartition(".")
        return attention in self._crosses and part in ("to_k", "to_v")

    def _original(self, name: str) -> torch.nn.Module | None:
        try:
            module = self._unet.get_submodule(name)
        except AttributeError:
            return None
        # Not by self._layers: the cache's thread checks while the engine's wraps.
        return module.base if isinstance(module, _LoraLinear | _LoraConv) else module


class _LoraLinear(torch.nn.Module):
    """A linear layer (N, [T,] in) with LoRA per row."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base, self.adapted = base, False
        self.ranks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        if not self.adapted:
            return y
        flat = x.ndim == 2
        tokens, out = (x[:, None], y[:, None]) if flat else (x, y)
        out = _add_lora(out, tokens, self.ranks)
        return out[:, 0] if flat else out


class _LoraConv(torch.nn.Module):
    """A convolution (N, in, H, W) with LoRA per row.

    ``down`` is applied to every pixel for all taps of the kernel at once, and the taps are then
    shifted and added: a batched product of all rows instead of one small convolution per row.
    """

    def __init__(self, base: torch.nn.Conv2d) -> None:
        super().__init__()
        self.base, self.side, self.adapted = base, base.kernel_size[0], False
        self.ranks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        if not self.adapted:
            return y
        n, _, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(n, height * width, -1)
        out = y.permute(0, 2, 3, 1)
        size = out.shape[1:3]
        out = out.reshape(n, -1, out.shape[-1])
        if self.side == 1 and self.base.stride == (1, 1):
            out = _add_lora(out, tokens, self.ranks)
        else:
            for down, up in self.ranks.values():
                taps = torch.bmm(tokens, down[:n]).view(n, height, width, self.side**2, -1)
                out = torch.baddbmm(out, self._shift_and_add(taps), up[:n])
        return out.view(n, *size, -1).permute(0, 3, 1, 2)

    def _shift_and_add(self, taps: torch.Tensor) -> torch.Tensor:
        """Sum over taps: (N, H, W, k*k, r) to (N, H'·W', r)."""
        half, (step_h, step_w) = self.side // 2, self.base.stride
        n, height, width, _, rank = taps.shape
        padded = F.pad(taps, (0, 0, 0, 0, half, half, half, half))
        total: torch.Tensor | None = None
        for tap in range(self.side**2):
            top, left = divmod(tap, self.side)
            part = padded[:, top : top + height : step_h, left : left + width : step_w, tap]
            total = part if total is None else total + part
        assert total is not None
        return total.reshape(n, -1, rank)


class _SelfAttention:
    """Attention of tokens among themselves (torch's fused kernel)."""

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        return _attend(attn, hidden_states, key, value)


class _CrossAttention:
    """Attention to a prompt whose keys and values are row inputs."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._keys, self._values = keys, values

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        n = hidden_states.shape[0]
        return _attend(attn, hidden_states, self._keys[:n], self._values[:n])


def _attend(
    attn: Attention, hidden_states: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    n, num_tokens, _ = hidden_states.shape
    query, keys, values = (
        tensor.view(n, -1, attn.heads, tensor.shape[-1] // attn.heads).transpose(1, 2)
        for tensor in (attn.to_q(hidden_states), key, value)
    )
    out = F.scaled_dot_product_attention(query, keys, values)
    out = out.transpose(1, 2).reshape(n, num_tokens, -1)
    projected: torch.Tensor = attn.to_out[1](attn.to_out[0](out))
    return projected


def _add_lora(
    out: torch.Tensor,
    tokens: torch.Tensor,
    ranks: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    n = len(tokens)
    for down, up in ranks.values():
        out = torch.baddbmm(out, torch.bmm(tokens, down[:n]), up[:n])
    return out


def _check_convolution(name: str, conv: torch.nn.Conv2d) -> None:
    side = conv.kernel_size[0]
    same = conv.padding in ((side // 2, side // 2), "same") and conv.dilation == (1, 1)
    if conv.kernel_size != (side, side) or not same or conv.groups != 1 or side % 2 == 0:
        raise ValueError(f"{name} is a convolution of a kind on which LoRA is not supported")


def _arranged(pair: LoraPair, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad to ``rank`` and arrange: ``down`` (in, k·k·rank), ``up`` (rank, out)."""
    down = pair.down.float() if pair.down.ndim == 4 else pair.down.float()[:, :, None, None]
    extra = rank - down.shape[0]
    down = F.pad(down, (0, 0, 0, 0, 0, 0, 0, extra))
    down = down.permute(1, 2, 3, 0).reshape(down.shape[1], -1)
    up = F.pad(pair.up.float(), (0, extra)).T
    return down.contiguous(), up.contiguous()  # rows copy them from step to step


def _parts(name: str, rank: int) -> tuple[str, str]:
    return f"{name}.{rank}.down", f"{name}.{rank}.up"


def _padded_rank(rank: int) -> int:
    padded = MIN_RANK
    while padded < rank:
        padded *= 2
    return padded


def _wrap(
    unet: UNet2DConditionModel, name: str, base: torch.nn.Module | None
) -> _LoraLinear | _LoraConv:
    layer: _LoraLinear | _LoraConv
    if isinstance(base, torch.nn.Linear):
        layer = _LoraLinear(base)
    else:
        assert isinstance(base, torch.nn.Conv2d)
        layer = _LoraConv(base)
    parent, _, last = name.rpartition(".")
    setattr(unet.get_submodule(parent), last, layer)
    return layer


def _attentions(unet: UNet2DConditionModel) -> Iterator[tuple[str, Attention]]:
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            extras = (module.norm_q, module.norm_k, module.group_norm, module.spatial_norm)
            plain = all(extra is None for extra in extras) and not module.norm_cross
            if not plain or module.residual_connection or module.rescale_output_factor != 1:
                raise ValueError(f"attention {name} is of a kind that is not supported")
            yield name, module


def _pooled_width(unet: UNet2DConditionModel) -> int:
    if unet.config.addition_embed_type != "text_time":
        return 0
    time_ids = 6 * int(unet.config.addition_time_embed_dim)
    return int(unet.config.projection_class_embeddings_input_dim) - time_ids
