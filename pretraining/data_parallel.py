"""Training in several processes with torch.distributed; without it, one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


def agreed(value: float) -> float:
    """The first process's ``value``, in all processes."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value)
    dist.broadcast(shared, 0)
    return float(shared)


def average_gradients(params: Sequence[torch.nn.Parameter]) -> None:
    """Replaces gradients by their mean over all processes."""
    if not dist.is_initialized():
        return
    flat = torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([p.numel() for p in params if p.grad is not None])
    for p, part in zip((p for p in params if p.grad is not None), parts, strict=True):
        p.grad.copy_(part.view_as(p))
