"""Slow reader of the packed tiers, by docs/formats/rollups.md alone: numbers one after the other, bits as text."""

from __future__ import annotations

import struct
from typing import Any

from native.checksum import crc32c

UNITS = (10**9, 10**6, 10**3, 1)


def wrapped(number: int) -> int:
    """Return a number modulo 2^64, signed."""
    return (number + 2**63) % 2**64 - 2**63


def bits_to_double(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", wrapped(bits)))[0])


def double_to_bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Bytes:
    """Bytes that are read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        shift = number = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number // 2 if number % 2 == 0 else -(number // 2) - 1

    def stream(self, count: int) -> list[int]:
        if not count:
            return []
        if self.byte() == 0:
            return [self.varint()] * count
        numbers: list[int] = []
        while len(numbers) < count:
            size = min(64, count - len(numbers))
            width, low = self.byte(), self.varint()
            packed = int.from_bytes(self.take((size * width + 7) // 8), "little")
            numbers += [wrapped(low + (packed >> (width * n)) % 2**width) for n in range(size)]
        return numbers

    def in_runs(self, starts: list[bool]) -> list[int]:
        firsts = self.stream(sum(starts))
        steps = self.stream(len(starts) - sum(starts))
        numbers: list[int] = []
        for start in starts:
            numbers.append(firsts.pop(0) if start else wrapped(numbers[-1] + steps.pop(0)))
        return numbers


def opened(data: bytes) -> Bytes:
    assert crc32c(data[:-4]) == int.from_bytes(data[-4:], "little")
    return Bytes(data[:-4])


def values(data: Bytes, counts: list[int], starts: list[bool]) -> dict[str, list[float]]:
    decimals = data.byte()
    low = data.in_runs(starts)
    high, first, last = ([wrapped(a + b) for a, b in zip(data.stream(len(low)), low, strict=True)] for _ in range(3))
    sums = data.stream(len(low))
    if decimals == 255:
        columns = {"min": low, "max": high, "first": first, "last": last, "sum": sums}
        return {name: [bits_to_double(number) for number in column] for name, column in columns.items()}
    power = 10.0**decimals
    columns = {"min": low, "max": high, "first": first, "last": last}
    found = {name: [number / power for number in column] for name, column in columns.items()}
    whole = [wrapped(a + n * b) for a, n, b in zip(sums, counts, low, strict=True)]
    units = data.stream(len(low))
    found["sum"] = [bits_to_double(double_to_bits(a / power) + b) for a, b in zip(whole, units, strict=True)]
    return found


def read_part(data: bytes, head_bytes: int, rows: int, runs: int, width_ns: int) -> list[tuple[Any, ...]]:
    """Return (series_id, time, count, sum, min, max, first, last, first_time, last_time) of each row."""
    head = opened(data[:head_bytes])
    (fields,) = struct.unpack("<I", head.take(4))
    directory = [struct.unpack("<II", head.take(8)) for _ in range(fields)]
    tagsets, lengths = head.stream(runs), head.stream(runs)
    ids = [tagset for tagset, length in zip(tagsets, lengths, strict=True) for _ in range(length)]
    assert len(ids) == rows
    starts = [n == 0 or ids[n] != ids[n - 1] for n in range(rows)]
    times = [number * width_ns for number in head.in_runs(starts)]
    shared = [head.in_runs(starts)]
    for _ in range(2):
        unit = UNITS[head.byte()]
        shared.append([time + offset * unit for time, offset in zip(times, head.in_runs(starts), strict=True)])
    assert head.at == len(head.data)
    found: list[tuple[Any, ...]] = []
    offset = head_bytes
    for number, length in directory:
        field = opened(data[offset : offset + length])
        offset += length
        flags = field.byte()
        present = list(range(rows))
        if flags & 1:
            bitmap = int.from_bytes(field.take((rows + 7) // 8), "little")
            present = [n for n in present if bitmap >> n & 1]
        own_starts = [n == 0 or ids[present[n]] != ids[present[n - 1]] for n in range(len(present))]
        own = [[line[n] for n in present] for line in shared]
        if flags & 2:
            own = [[a + b for a, b in zip(line, field.in_runs(own_starts), strict=True)] for line in own]
        lines = values(field, own[0], own_starts)
        columns = [own[0], *(lines[name] for name in ("sum", "min", "max", "first", "last")), own[1], own[2]]
        for n, row in enumerate(present):
            found.append((ids[row] << 16 | number, times[row], *(column[n] for column in columns)))
    assert offset == len(data)
    return found
