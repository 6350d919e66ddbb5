"""Column encodings one cell at a time in Python integers: docs/formats/wal.md, "Columns", written as code.

Packing makes the same choices as the native code, so that bytes can be compared; unpacking knows every mode.
"""

from __future__ import annotations

import itertools
import math
import struct

ABSENT_BITS = 0x7FF8_5449_4445_4741
PACKED_DECIMALS = 6
MASK = (1 << 64) - 1


def bits_of(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def value_of(bits: int) -> float:
    return float(struct.unpack("<d", bits.to_bytes(8, "little"))[0])


def signed(value: int, bits: int = 64) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def width_of(largest: int) -> int:
    return next(width for width in (1, 2, 4, 8) if largest < 1 << 8 * width)


def pack_integers(values: list[int]) -> bytes:
    """``values`` within int64."""
    if not values:
        return b"\x00"
    smallest = min(values)
    span = max(values) - smallest
    if span == 0:
        return b"\x01" + zigzag(smallest)
    steps = [signed(after - before) for before, after in itertools.pairwise(values)]
    if len(set(steps)) == 1:
        return b"\x02" + zigzag(values[0]) + zigzag(steps[0])
    offset_width = width_of(span)
    step_width = width_of(max(steps) - min(steps))
    width = min(offset_width, step_width)
    if width >= 4:
        unit = math.gcd(*(value - smallest for value in values))
        multiple_width = width_of(span // unit)
        if multiple_width < width:
            head = bytes([0x20 | multiple_width]) + zigzag(smallest) + varint(unit)
            return head + b"".join(((value - smallest) // unit).to_bytes(multiple_width, "little") for value in values)
    if width == 8:
        return b"\x08" + b"".join((value & MASK).to_bytes(8, "little") for value in values)
    if offset_width == width:
        head = bytes([0x10 | width]) + zigzag(smallest)
        return head + b"".join((value - smallest).to_bytes(width, "little") for value in values)
    head = bytes([0x30 | width]) + zigzag(values[0]) + zigzag(min(steps))
    return head + b"".join((step - min(steps)).to_bytes(width, "little") for step in steps)


def exact_integer(value: float, decimals: int) -> int | None:
    """Return value * 10**decimals as an integer if dividing it by the power gives the very same bits."""
    scaled = value * 10.0**decimals
    if not abs(scaled) <= 2.0**53:
        return None
    integer = round(scaled)
    return integer if bits_of(integer / 10.0**decimals) == bits_of(value) else None


def decimals_of(values: list[float], max_decimals: int = 6) -> int:
    present = [value for value in values if bits_of(value) != ABSENT_BITS]
    for decimals in range(max_decimals + 1):
        if all(exact_integer(value, decimals) is not None for value in present):
            return decimals
    return -1


def pack_floats(values: list[float]) -> bytes:
    present = [value for value in values if bits_of(value) != ABSENT_BITS]
    if not present:
        return b"\x80"
    sparse, bitmap = 0, b""
    if len(present) < len(values):
        sparse = 0x10
        marks = sum(1 << row for row, value in enumerate(values) if bits_of(value) != ABSENT_BITS)
        bitmap = marks.to_bytes((len(values) + 7) // 8, "little")
    decimals = decimals_of(present, PACKED_DECIMALS)
    if decimals >= 0:
        integers = [exact_integer(value, decimals) or 0 for value in present]
        return bytes([0x90 + decimals + sparse]) + bitmap + pack_integers(integers)
    raw = [bits_of(value).to_bytes(8, "little") for value in present]
    if not sparse and len(set(raw)) == 1:
        return b"\x81" + raw[0]
    return bytes([0x9F + sparse]) + bitmap + b"".join(raw)


class Source:
    """Bytes with a position; every read checks that they are there."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset

    def take(self, size: int) -> bytes:
        if self.offset + size > len(self.data):
            raise ValueError("short")
        taken = self.data[self.offset : self.offset + size]
        self.offset += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        return value & MASK

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 if value & 1 == 0 else -(value >> 1) - 1


def unpack_integers(source: Source, rows: int) -> list[int]:
    mode = source.number(1)
    if (mode == 0) != (rows == 0):
        raise ValueError("mode")
    if mode == 0x00:
        return []
    if mode == 0x01:
        return [source.zigzag()] * rows
    if mode == 0x02:
        first, step = source.zigzag(), source.zigzag()
        return [signed(first + step * row) for row in range(rows)]
    if mode == 0x08:
        return [signed(source.number(8)) for _ in range(rows)]
    form, width = mode & 0xF0, mode & 0x0F
    if width not in (1, 2, 4):
        raise ValueError("mode")
    if form == 0x10:
        base = source.zigzag()
        return [signed(base + source.number(width)) for _ in range(rows)]
    if form == 0x20:
        base, unit = source.zigzag(), source.varint()
        return [signed(base + unit * source.number(width)) for _ in range(rows)]
    if form == 0x30:
        values, smallest = [source.zigzag()], source.zigzag()
        for _ in range(rows - 1):
            values.append(signed(values[-1] + smallest + source.number(width)))
        return values
    raise ValueError("mode")


def unpack_floats(source: Source, rows: int) -> list[int]:
    """Return the bits of each cell."""
    mode = source.number(1)
    if mode == 0x80:
        return [ABSENT_BITS] * rows
    if mode == 0x81:
        return [source.number(8)] * rows
    marks = (1 << rows) - 1
    if mode >= 0xA0:
        marks = source.number((rows + 7) // 8)
        mode -= 0x10
        if marks >> rows:
            raise ValueError("padding")
    if 0x90 <= mode <= 0x90 + PACKED_DECIMALS:
        integers = unpack_integers(source, marks.bit_count())
        present = [bits_of(integer / 10.0 ** (mode - 0x90)) for integer in integers]
    elif mode == 0x9F:
        present = [source.number(8) for _ in range(marks.bit_count())]
    else:
        raise ValueError("mode")
    cells = iter(present)
    return [next(cells) if marks >> row & 1 else ABSENT_BITS for row in range(rows)]
