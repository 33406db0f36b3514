"""Recognizes files that bear an image's name and hold something else."""

from __future__ import annotations

_TEXT = frozenset(range(32, 127)) | frozenset(b"\t\r\n\f")
_SIGNATURES = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or Office document"),
    (b"\x89HDF", "HDF5"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"SIMPLE  =", "FITS"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
    (b"<!DOCTYPE", "HTML"),
    (b"<svg", "SVG"),
)
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF"}


def foreign_content(head: bytes) -> str:
    """What a file holds instead of an image; empty where unknown.

    Args:
        head: The first bytes of the file, at least 132 if it has as many.
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a film")
    if head[128:132] == b"DICM":
        return "DICOM"
    return "text" if head and not head.startswith(b"BM") and _TEXT.issuperset(head) else ""
