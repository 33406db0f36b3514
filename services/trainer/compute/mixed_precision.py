"""The number format of training steps, the same for adapters and classifiers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from services.common.processor import computes_in_bfloat16


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 where the hardware multiplies it natively: GPUs, and CPUs that can."""
    native = device.type == "cuda" or computes_in_bfloat16()
    with plain_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=native):
        yield


_lock = threading.Lock()
_inside: list[ExitStack] = []
"""One for each thread that is inside; the first of them changed the setting."""


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """On CPUs: attention by plain matrix products, as long as any thread is inside.

    Backward through torch's fused attention in bfloat16 is four times slower on a CPU. torch's
    setting is that of the whole process: a thread that put it back would take it from the others.
    """
    if device.type == "cuda":
        yield
        return
    with _lock:
        stack = _inside[0] if _inside else ExitStack()
        if not _inside:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        _inside.append(stack)
    try:
        yield
    finally:
        with _lock:
            _inside.remove(stack)
            if not _inside:
                stack.close()
