"""Number format of the pretraining: bfloat16 where the processor has it."""

from __future__ import annotations

import torch

from services.common.processor import computes_in_bfloat16


def native_bfloat16(device: str = "cpu") -> torch.autocast:
    """Autocast to bfloat16; float32 where bfloat16 would be emulated."""
    native = device == "cuda" or computes_in_bfloat16()
    return torch.autocast(device, torch.bfloat16, enabled=native)
