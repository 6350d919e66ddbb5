"""Protocol Buffers' wire format, as far as Flight SQL's messages need it.

Source: "Encoding", https://protobuf.dev/programming-guides/encoding/.  A message is a sequence of records: a tag
(field number * 8 + wire type) and a value; fields may come in any order, of one that comes twice the last counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import BadRequest

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: Most bytes of a number of 64 bits.
_LONGEST_VARINT = 10


def records(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a message: int for numbers, bytes for everything with a length.

    Raises BadRequest for what is no message.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == LENGTH:
            size, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise BadRequest(f"cannot read message: got wire type {kind} at byte {at}, want 0, 1, 2 or 5")
        if size > len(data) - at:
            raise BadRequest(f"cannot read message: field {number} has {size} bytes, {len(data) - at} are left")
        part = data[at : at + size]
        at += size
        yield number, part if kind == LENGTH else int.from_bytes(part, "little")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_LONGEST_VARINT):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + index + 1
    raise BadRequest(f"cannot read message: it ends or goes wrong in the number at byte {at}")


def bytes_field(number: int, value: bytes | str) -> bytes:
    """Return the record of a text, of bytes or of a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(data)) + data


def number_field(number: int, value: int) -> bytes:
    """Return the record of a number that is not negative."""
    return varint(number << 3 | VARINT) + varint(value)


def varint(value: int) -> bytes:
    """Return a number that is not negative in base-128 form."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
