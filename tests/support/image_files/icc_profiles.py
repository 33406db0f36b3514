"""ICC profiles with chosen primaries and gamma (ICC.1:2001-04, version 2.4)."""

from __future__ import annotations

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
"""Adobe RGB (1998) to XYZ, adapted to D50; its gamma is 2.2."""
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
"""sRGB to XYZ, adapted to D50."""


def rgb_profile(primaries: np.ndarray, gamma: float) -> bytes:
    """A profile of primaries and one gamma.

    The primaries are columns of XYZ (3, 3) at D50.
    """
    tags = {b"wtpt": _xyz(D50)}
    for column, letter in enumerate("rgb"):
        tags[f"{letter}XYZ".encode()] = _xyz(primaries[:, column])
        tags[f"{letter}TRC".encode()] = _curve([round(gamma * 256)])
    return _profile(b"RGB ", tags)


def srgb_profile() -> bytes:
    """sRGB as cameras embed it, a table of 1024 values."""
    signal = np.linspace(0, 1, 1024)
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    table = [round(value) for value in light * 65535]
    tags = {b"wtpt": _xyz(D50)}
    for column, letter in enumerate("rgb"):
        tags[f"{letter}XYZ".encode()] = _xyz(SRGB[:, column])
        tags[f"{letter}TRC".encode()] = _curve(table)
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    """A profile of grey with one gamma."""
    return _profile(b"GRAY", {b"wtpt": _xyz(D50), b"kTRC": _curve([round(gamma * 256)])})


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """Light, 0 to 1, as sRGB samples of 8 bits, not rounded."""
    light = np.clip(linear, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(float(value)) for value in values)


def _curve(values: list[int]) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"cprt": b"text\0\0\0\0" + text,
        **tags,
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28
    header += b"".join(_fixed(value) for value in D50)
    return header.ljust(128, b"\0") + table + data
