"""Arithmetic of training steps, the same for adapters and classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from services.common.processor import computes_in_bfloat16


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 where the hardware multiplies it natively: GPUs, and CPUs that can."""
    native = device.type == "cuda" or computes_in_bfloat16()
    with plain_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=native):
        yield


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Attention by plain matrix products, on CPUs; applies to the whole process.

    Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
    """
    return nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)
