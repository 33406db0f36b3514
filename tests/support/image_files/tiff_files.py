"""TIFF files with chosen tags and samples, written byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TYPES = {1: "B", 3: "H", 4: "I", 5: "II"}


def tiff_file(
    samples: NDArray[np.generic],
    *,
    photometric: int | None,
    order: str = "<",
    separate: bool = False,
    deflate: bool = False,
    num_strips: int = 2,
    tags: dict[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """A TIFF file of one page.

    Args:
        samples: (H, W) or (H, W, C), as stored.
        photometric: PhotometricInterpretation; None leaves the tag out.
        order: Byte order, "<" or ">".
        separate: Whether each channel is a plane of its own (PlanarConfiguration 2).
        deflate: Whether strips are compressed.
        num_strips: Strips of a plane.
        tags: Further tags, or others in place of these: number to type and values.
    """
    array = samples if samples.ndim == 3 else samples[:, :, None]
    height, width, channels = array.shape
    rows = -(-height // num_strips)
    planes = [array[:, :, c : c + 1] for c in range(channels)] if separate else [array]
    strips = [
        np.ascontiguousarray(plane[top : top + rows])
        .astype(array.dtype.newbyteorder("<" if order == "<" else ">"))
        .tobytes()
        for plane in planes
        for top in range(0, height, rows)
    ]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    offsets = np.cumsum([8, *(len(strip) for strip in strips)]).tolist()
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [array.dtype.itemsize * 8] * channels),
        259: (3, [8 if deflate else 1]),
        273: (4, offsets[:-1]),
        277: (3, [channels]),
        278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if separate else 1]),
        **({} if photometric is None else {262: (3, [photometric])}),
        **(tags or {}),
    }
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8 + len(body)) + body + _ifd(entries, order, len(body))


def _ifd(entries: dict[int, tuple[int, Sequence[int]]], order: str, body_size: int) -> bytes:
    beyond = 8 + body_size + 2 + 12 * len(entries) + 4
    table, overflow = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        count = len(values) // len(_TYPES[kind])
        packed = struct.pack(order + _TYPES[kind] * count, *values)
        if len(packed) > 4:
            table += struct.pack(order + "HHII", tag, kind, count, beyond + len(overflow))
            overflow += packed + b"\0" * (len(packed) % 2)
        else:
            table += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
    return table + struct.pack(order + "I", 0) + overflow
