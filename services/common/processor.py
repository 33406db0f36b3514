"""Abilities of this machine's processor."""

from __future__ import annotations

from pathlib import Path


def computes_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself.

    The answer is known on x86 and Arm Linux. Other CPUs emulate bfloat16, many times slower than
    they compute in float32.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return bool(set(text.split()) & {"avx512_bf16", "amx_bf16", "bf16"})
