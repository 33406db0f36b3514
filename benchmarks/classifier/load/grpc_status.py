"""Finds ``grpc-status`` in an HTTP/2 header block (HPACK, RFC 7541).

Knows no dynamic table: a client that announces a table of size 0 is sent none. Of Huffman codes it
knows those of the name and of digits.
"""

from __future__ import annotations

# RFC 7541, appendix B.
_CODES = {
    "0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "5": "011011",
    "6": "011100", "7": "011101", "8": "011110", "9": "011111",
    "-": "010110", "a": "00011", "c": "00100", "g": "100110", "p": "101011", "r": "101100",
    "s": "01000", "t": "01001", "u": "101101",
}  # fmt: skip


def huffman(text: str) -> bytes:
    """Huffman code of a text of known characters, padded with ones."""
    bits = "".join(_CODES[character] for character in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


_NAMES = {b"grpc-status", huffman("grpc-status")}
_VALUES = {text: int(text) for text in map(str, range(17))}
_PLAIN = {text.encode(): value for text, value in _VALUES.items()}
_HUFFMAN = {huffman(text): value for text, value in _VALUES.items()}


def grpc_status(block: bytes) -> int | None:
    """Status in a header block; None if the block has none.

    Raises:
        ValueError: If the block refers to a dynamic table.
    """
    position = 0
    while position < len(block):
        first = block[position]
        if first & 0x80:  # a field of the static table
            index, position = _integer(block, position, 7)
            _check_static(index)
            continue
        if first & 0xE0 == 0x20:  # the size of the dynamic table
            _, position = _integer(block, position, 5)
            continue
        index, position = _integer(block, position, 6 if first & 0x40 else 4)
        name = b""
        if index:
            _check_static(index)
        else:
            _, name, position = _string(block, position)
        coded, value, position = _string(block, position)
        if name in _NAMES:
            return (_HUFFMAN if coded else _PLAIN).get(value, 2)
    return None


def _check_static(index: int) -> None:
    if not 1 <= index <= 61:
        raise ValueError("the peer uses a dynamic header table, of which it was offered none")


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    limit = (1 << prefix) - 1
    value = block[position] & limit
    position += 1
    if value < limit:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position


def _string(block: bytes, position: int) -> tuple[bool, bytes, int]:
    coded = bool(block[position] & 0x80)
    length, position = _integer(block, position, 7)
    return coded, block[position : position + length], position + length
