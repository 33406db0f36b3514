"""What the processor of this machine can do."""

from __future__ import annotations

from pathlib import Path


def computes_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself (x86 and Arm Linux say so).

    One that does not emulates them, many times slower than it computes in float32.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return bool(set(text.split()) & {"avx512_bf16", "amx_bf16", "bf16"})
