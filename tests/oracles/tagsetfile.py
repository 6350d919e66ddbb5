"""Tag-set files by `struct`, item by item, and the hash they hold (docs/formats/catalogue.md)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.oracles.catalogue import Tags, tagset_key
from tests.oracles.checksum import crc32c

MASK = (1 << 64) - 1
FIRST, SECOND, THIRD = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xAEF17502108EF2D9


def fold(a: int, b: int) -> int:
    product = (a & MASK) * (b & MASK)
    return (product & MASK) ^ (product >> 64)


def hash_bytes(data: bytes, seed: int) -> int:
    """Return the 64-bit hash of a key."""

    def word(at: int, size: int = 8) -> int:
        return int.from_bytes(data[at : at + size], "little")

    length = len(data)
    state = seed ^ fold(seed ^ FIRST, length ^ SECOND)
    low = high = 0
    if length > 16:
        lane, at = state, 0
        while length - at > 32:
            state = fold(word(at) ^ FIRST, word(at + 8) ^ state)
            lane = fold(word(at + 16) ^ SECOND, word(at + 24) ^ lane)
            at += 32
        state ^= lane
        if length - at > 16:
            state = fold(word(at) ^ THIRD, word(at + 8) ^ state)
        low, high = word(length - 16), word(length - 8)
    elif length >= 8:
        low, high = word(0), word(length - 8)
    elif length >= 4:
        low, high = word(0, 4), word(length - 4, 4)
    elif length > 0:
        low = data[0] << 16 | data[length >> 1] << 8 | data[length - 1]
    return fold(fold(low ^ SECOND, high ^ state) ^ THIRD, length ^ FIRST)


def tagset_file(first: int, tagsets: Sequence[tuple[int, Tags]], seed: int) -> bytes:
    """Return the file of tag sets (table, tags) numbered from ``first``."""
    symbols: dict[bytes, int] = {}
    offsets, keys, values = [0], [], []
    for _, tags in tagsets:
        for key, value in sorted(tags):
            keys.append(symbols.setdefault(key, len(symbols)))
            values.append(symbols.setdefault(value, len(symbols)))
        offsets.append(len(keys))
    size = 16
    while len(tagsets) * 8 > size * 5:
        size *= 2
    slots = [0] * size
    for place, (table_id, tags) in enumerate(tagsets):
        hashed = hash_bytes(tagset_key(table_id, tags), seed) >> 32
        at = hashed % size
        while slots[at]:
            at = (at + 1) % size
        slots[at] = hashed << 32 | (place + 1)
    ends = [0]
    for text in symbols:
        ends.append(ends[-1] + len(text))
    body = struct.pack(f"<{size}Q", *slots)
    for numbers in ([table_id for table_id, _ in tagsets], offsets, keys, values, ends):
        body += padded(struct.pack(f"<{len(numbers)}I", *numbers))
    body += padded(b"".join(symbols))
    header = struct.pack(
        "<8sIIIIQQQQI",
        b"TGTAGSET",
        1,
        first,
        len(tagsets),
        len(symbols),
        len(keys),
        size,
        ends[-1],
        seed,
        crc32c(body),
    )
    return header + struct.pack("<I", crc32c(header)) + body


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
