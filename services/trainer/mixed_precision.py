"""The number format of training steps, the same for adapters and classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 where the hardware multiplies it natively (GPUs, CPUs with AMX or AVX-512 BF16)."""
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
    attention = nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)
    with attention, torch.autocast(device.type, torch.bfloat16, enabled=native):
        yield
