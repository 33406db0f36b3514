"""The status in header blocks of HTTP/2."""

from __future__ import annotations

import pytest

from benchmarks.classifier.load.grpc_status import grpc_status, huffman


def literal(name: bytes, value: bytes, coded: bool = False, first: int = 0x00) -> bytes:
    """A field with a new name."""
    mark = 0x80 if coded else 0
    return bytes([first, mark | len(name)]) + name + bytes([mark | len(value)]) + value


def test_a_plain_status_is_found_after_fields_of_the_static_table() -> None:
    assert grpc_status(b"\x88" + literal(b"grpc-status", b"8")) == 8


def test_a_huffman_coded_status_is_found() -> None:
    block = literal(huffman("grpc-status"), huffman("14"), coded=True, first=0x40)
    assert grpc_status(block) == 14


def test_a_block_without_a_status_has_none() -> None:
    assert grpc_status(b"\x3f\x00\x88" + literal(b"grpc-message", b"0")) is None


def test_a_long_field_before_the_status_is_skipped() -> None:
    long = b"\x00\x01a" + bytes([0x7F, 200 - 127 + 0x80 - 0x80]) + b"x" * 200
    assert grpc_status(long + literal(b"grpc-status", b"0")) == 0


def test_a_reference_to_a_dynamic_table_is_refused() -> None:
    with pytest.raises(ValueError, match="dynamic header table"):
        grpc_status(b"\xbe")
