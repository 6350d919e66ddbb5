"""A part: some rows of one tier and one table, packed (docs/formats/rollups.md).

The head of a part has its directory and its keys (tag sets, buckets, and the count and times that most fields share);
each field follows by itself, so that a query reads only the fields it needs.  Each ends with its CRC32C.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.rows import Float64Array, Int64Array
from engine.rollups.bins import Bins
from engine.rollups.rows import SHARED_NAMES, TierRows
from native.checksum import crc32c
from native.tierpack import pack_integers, pack_values, unpack_integers, unpack_values
from native.tiers import VALUE_NAMES

#: Flags of a packed field.
SOME_ROWS, OWN_COUNTS, INCREASES, HISTOGRAM = 1, 2, 4, 8
#: Units of time offsets, by the byte that says which.
UNITS_NS = (1_000_000_000, 1_000_000, 1_000, 1)
MAX_DECIMALS = 6
NO_DECIMALS = 255

#: Of a directory: field number, length.
_ENTRY = struct.Struct("<II")

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Packed:
    """A part as it is stored: ``head``, then the bytes of each field of its directory in order."""

    rows: int
    runs: int
    series_rows: int
    head: bytes
    fields: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Head:
    """An opened head.  ``places``: field number -> (offset behind the head, length)."""

    keys: bytes
    places: dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Keys:
    """The unpacked keys: those of the rows, and the counts and times (int64[n]) that fields share."""

    tagset_ids: npt.NDArray[np.int32]
    times: Int64Array
    starts: UInt8Array
    shared: tuple[Int64Array, Int64Array, Int64Array]


def pack(rows: TierRows, width_ns: int) -> Packed:
    """Pack sorted rows of a tier whose buckets are ``width_ns`` wide."""
    starts = _starts_of(rows.tagset_ids)
    first = np.flatnonzero(starts)
    shared = _shared_of(rows)
    keys = b"".join(
        (
            pack_integers(rows.tagset_ids[first].astype(np.int64)),
            pack_integers(np.diff(np.r_[first, len(rows)])),
            pack_integers(rows.times // width_ns, starts),
            pack_integers(shared[0], starts),
            _pack_offsets(shared[1] - rows.times, starts),
            _pack_offsets(shared[2] - rows.times, starts),
        )
    )
    fields: dict[int, bytes] = {}
    series_rows = 0
    count, present = 0, np.empty(0, np.bool_)
    for place, number in enumerate(rows.field_ids):
        if not place or not rows.alike:
            present = rows.line("counts", place) > 0
            count = int(np.count_nonzero(present))
        if count:
            series_rows += count
            where = None if count == len(rows) else present
            fields[number] = _sealed(_pack_field(rows, place, number, where, shared, starts))
    directory = [len(fields).to_bytes(4, "little")]
    directory += [_ENTRY.pack(number, len(data)) for number, data in fields.items()]
    return Packed(len(rows), len(first), series_rows, _sealed(b"".join(directory) + keys), fields)


def open_head(data: bytes) -> Head:
    """Return the directory and the keys of a head; raises ValueError for damaged bytes."""
    head = _opened(data)
    count = int.from_bytes(head[:4], "little")
    if len(head) < 4 + count * _ENTRY.size:
        raise ValueError("cannot unpack rollups: the directory is cut short")
    places, offset = {}, 0
    for number, length in _ENTRY.iter_unpack(head[4 : 4 + count * _ENTRY.size]):
        places[number] = (offset, length)
        offset += length
    return Head(head[4 + count * _ENTRY.size :], places)


def unpack(rows: int, runs: int, keys: bytes, fields: Mapping[int, bytes], width_ns: int) -> TierRows:
    """Return the rows of a part over the given fields; raises ValueError for damaged bytes.

    ``keys`` from :func:`open_head`; ``fields``: the bytes of each field as they are stored.
    Rows that hold samples of other fields only have a count of 0.
    """
    found = _unpack_keys(rows, runs, keys, width_ns)
    numbers = sorted(fields)
    opened = {number: _opened(fields[number]) for number in numbers}
    if any(not data for data in opened.values()):
        raise ValueError("cannot unpack rollups: a field has no bytes")
    alike = all(not opened[number][0] & (SOME_ROWS | OWN_COUNTS) for number in numbers)
    shared: list[Any] = [np.zeros((1 if alike else len(numbers), rows), np.int64) for _ in SHARED_NAMES]
    if alike:
        for matrix, line in zip(shared, found.shared, strict=True):
            matrix[0] = line
    values: list[Any] = [np.zeros((len(numbers), rows), np.float64) for _ in VALUE_NAMES]
    counters = tuple(number for number in numbers if opened[number][0] & INCREASES)
    increases = np.zeros((len(counters), rows), np.float64)
    histograms: dict[int, Bins] = {}
    for place, number in enumerate(numbers):
        data = opened[number]
        flags, offset, starts, present = data[0], 1, found.starts, None
        lines = [matrix[place] for matrix in values]
        own: Sequence[Int64Array] = found.shared
        if flags & SOME_ROWS:
            size = (rows + 7) // 8
            if len(data) < offset + size:
                raise ValueError("cannot unpack rollups: the data ends too early")
            bits = np.frombuffer(data, np.uint8, size, offset)
            present = np.flatnonzero(np.unpackbits(bits, count=rows, bitorder="little"))
            offset += size
            starts = _starts_of(found.tagset_ids[present])
            own = [line[present] for line in own]
            lines = [np.empty(len(present), np.float64) for _ in lines]
        if flags & OWN_COUNTS:
            changed = []
            for line in own:
                difference = np.empty(len(line), np.int64)
                offset = unpack_integers(data, offset, difference, starts)
                changed.append(line + difference)
            own = changed
        own = [np.ascontiguousarray(line) for line in own]
        offset = unpack_values(data, offset, own[0], starts, *lines)
        index: slice | Int64Array = slice(None) if present is None else present
        if present is not None:
            for value_matrix, value_line in zip(values, lines, strict=True):
                value_matrix[place, present] = value_line
        if not alike:
            for shared_matrix, own_line in zip(shared, own, strict=True):
                shared_matrix[place, index] = own_line
        length = rows if present is None else len(present)
        if flags & INCREASES:
            risen, offset = _unpack_doubles(data, offset, length)
            increases[counters.index(number), index] = risen
        if flags & HISTOGRAM:
            histograms[number], offset = _unpack_bins(data, offset, length, present, rows)
        if offset != len(data):
            raise ValueError(f"cannot unpack rollups: {len(data) - offset} bytes are left over")
    return TierRows(
        found.tagset_ids,
        found.times,
        tuple(numbers),
        counters=counters,
        increases=increases,
        histograms=histograms,
        **dict(zip((*SHARED_NAMES, *VALUE_NAMES), [*shared, *values], strict=True)),
    )


def _pack_field(
    rows: TierRows,
    place: int,
    number: int,
    present: npt.NDArray[np.bool_] | None,
    shared: Sequence[Int64Array],
    starts: UInt8Array,
) -> bytes:
    """Pack a field whose rows are ``present``, None for all; ``starts``: 1 where the rows of another tag set begin."""
    flags, parts = 0, []
    own = [rows.line(name, place) for name in SHARED_NAMES]
    lines = [rows.line(name, place) for name in VALUE_NAMES]
    if present is not None:
        flags |= SOME_ROWS
        parts.append(np.packbits(present, bitorder="little").tobytes())
        own, lines = [line[present] for line in own], [line[present] for line in lines]
        shared, starts = [line[present] for line in shared], _starts_of(rows.tagset_ids[present])
    if not rows.alike and any((line != other).any() for line, other in zip(own, shared, strict=True)):
        flags |= OWN_COUNTS
        parts += [pack_integers(line - other, starts) for line, other in zip(own, shared, strict=True)]
    sums, mins, maxs, firsts, lasts = (np.ascontiguousarray(line) for line in lines)
    parts.append(pack_values(np.ascontiguousarray(own[0]), sums, mins, maxs, firsts, lasts, starts))
    if number in rows.counters:
        flags |= INCREASES
        increases = rows.increases[rows.counters.index(number)]
        parts.append(_pack_doubles(increases if present is None else increases[present]))
    bins = rows.histograms.get(number)
    if bins is not None and len(bins.bins):
        flags |= HISTOGRAM
        parts.append(_pack_bins(bins if present is None else bins.take(np.flatnonzero(present))))
    return bytes([flags]) + b"".join(parts)


def _unpack_keys(rows: int, runs: int, data: bytes, width_ns: int) -> _Keys:
    tagsets, lengths, numbers = (np.empty(size, np.int64) for size in (runs, runs, rows))
    offset = unpack_integers(data, unpack_integers(data, 0, tagsets), lengths)
    if (lengths < 1).any() or int(lengths.sum()) != rows or (tagsets < 0).any() or (tagsets >= 2**31).any():
        raise ValueError("cannot unpack rollups: the tag sets do not make up the rows")
    tagset_ids = np.repeat(tagsets.astype(np.int32), lengths)
    starts = _starts_of(tagset_ids)
    offset = unpack_integers(data, offset, numbers, starts)
    counts = np.empty(rows, np.int64)
    offset = unpack_integers(data, offset, counts, starts)
    times = numbers * width_ns
    firsts, offset = _unpack_offsets(data, offset, rows, starts)
    lasts, offset = _unpack_offsets(data, offset, rows, starts)
    if offset != len(data):
        raise ValueError(f"cannot unpack rollups: {len(data) - offset} bytes are left over")
    return _Keys(tagset_ids, times, starts, (counts, times + firsts, times + lasts))


def _shared_of(rows: TierRows) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return count, first and last time for the rows as wholes: what the fields are compared with."""
    if rows.alike:
        return rows.counts[0], rows.first_times[0], rows.last_times[0]
    present = rows.counts > 0
    firsts = np.where(present, rows.first_times, np.iinfo(np.int64).max).min(axis=0)
    lasts = np.where(present, rows.last_times, np.iinfo(np.int64).min).max(axis=0)
    return rows.counts.max(axis=0), firsts, lasts


def _starts_of(tagset_ids: npt.NDArray[np.int32]) -> UInt8Array:
    starts = np.ones(len(tagset_ids), np.uint8)
    starts[1:] = tagset_ids[1:] != tagset_ids[:-1]
    return starts


def _pack_offsets(offsets: Int64Array, starts: UInt8Array) -> bytes:
    unit = next(number for number, unit_ns in enumerate(UNITS_NS) if not (offsets % unit_ns).any())
    return bytes([unit]) + pack_integers(offsets // UNITS_NS[unit], starts)


def _unpack_offsets(data: bytes, offset: int, rows: int, starts: UInt8Array) -> tuple[Int64Array, int]:
    if offset >= len(data) or data[offset] >= len(UNITS_NS):
        raise ValueError("cannot unpack rollups: got no unit of time")
    offsets = np.empty(rows, np.int64)
    end = unpack_integers(data, offset + 1, offsets, starts)
    return offsets * UNITS_NS[data[offset]], end


def _pack_doubles(values: Float64Array) -> bytes:
    """Pack increases: whole numbers of the fewest decimals that give all of them back, else their bits."""
    bits = values.view(np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        for decimals in range(MAX_DECIMALS + 1):
            scaled = np.rint(values * 10.0**decimals)
            if (np.abs(scaled) < 2.0**53).all() and np.array_equal(
                (scaled / 10.0**decimals + 0.0).view(np.int64), bits
            ):
                return bytes([decimals]) + pack_integers(scaled.astype(np.int64))
    return bytes([NO_DECIMALS]) + pack_integers(bits)


def _unpack_doubles(data: bytes, offset: int, rows: int) -> tuple[Float64Array, int]:
    if offset >= len(data) or (data[offset] > MAX_DECIMALS and data[offset] != NO_DECIMALS):
        raise ValueError("cannot unpack rollups: got no number of decimals")
    numbers = np.empty(rows, np.int64)
    end = unpack_integers(data, offset + 1, numbers)
    if data[offset] == NO_DECIMALS:
        return numbers.view(np.float64), end
    return numbers / 10.0 ** data[offset] + 0.0, end


def _pack_bins(bins: Bins) -> bytes:
    return b"".join(
        (
            len(bins.bins).to_bytes(8, "little"),
            pack_integers(bins.lengths()),
            pack_integers(bins.bins.astype(np.int64), _bin_starts(bins.lengths())),
            pack_integers(bins.counts),
        )
    )


def _unpack_bins(data: bytes, offset: int, length: int, present: Int64Array | None, rows: int) -> tuple[Bins, int]:
    held = int.from_bytes(data[offset : offset + 8], "little")
    # A bin takes a bit or more, unless all are equal: then only their number says how many there are.
    lengths = np.empty(length, np.int64)
    offset = unpack_integers(data, offset + 8, lengths)
    if (lengths < 0).any() or int(lengths.sum()) != held:
        raise ValueError("cannot unpack rollups: the bins do not make up the histograms")
    numbers, counts = np.empty(held, np.int64), np.empty(held, np.int64)
    offset = unpack_integers(data, offset, numbers, _bin_starts(lengths))
    offset = unpack_integers(data, offset, counts)
    of_row = np.zeros(rows, np.int64)
    of_row[slice(None) if present is None else present] = lengths
    return Bins(np.concatenate([np.zeros(1, np.int64), np.cumsum(of_row)]), numbers.astype(np.int32), counts), offset


def _bin_starts(lengths: Int64Array) -> UInt8Array:
    starts = np.zeros(int(lengths.sum()), np.uint8)
    starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = 1
    return starts


def _sealed(data: bytes) -> bytes:
    return data + crc32c(data).to_bytes(4, "little")


def _opened(data: bytes) -> bytes:
    if len(data) < 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("cannot unpack rollups: the checksum is wrong")
    return data[:-4]
