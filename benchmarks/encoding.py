"""Generated blocks as bytes on the wire: line protocol batches and Arrow record batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.devops import Float64Array, Int64Array, Measurement
from benchmarks.generator import Block, DevopsGenerator

ByteMatrix = npt.NDArray[np.uint8]
NEWLINE = 10
MINUS = ord("-")
POINT = ord(".")
# Rows encoded at once; keeps the padded matrix near the size of the processor's cache.
ROWS_AT_ONCE = 8_192


def _groups_of_four(fill: int) -> npt.NDArray[np.uint32]:
    """Return the text of 0..9999 as four bytes each in one word; leading zeros are ``fill``."""
    table = np.empty((10_000, 4), np.uint8)
    numbers = np.arange(10_000)
    for place in range(4):
        digits = numbers // 10 ** (3 - place) % 10 + ord("0")
        leading = numbers < 10 ** (3 - place)
        table[:, place] = np.where(leading, fill, digits)
    return table.view(np.uint32).reshape(-1)


_PADDED = _groups_of_four(ord("0"))
_TRIMMED = _groups_of_four(0)
# As _TRIMMED, but zero is written as the digit 0: the last group of a number.
_LAST = _TRIMMED.copy()
_LAST[0] = np.frombuffer(b"\0\0\x000", np.uint32)[0]


def integer_digits(values: Int64Array) -> ByteMatrix:
    """Return the decimal text of int64[n] >= 0 as uint8[n, width], padded with NUL on the left."""
    groups = max(1, (len(str(int(values.max(initial=0)))) + 3) // 4)
    text = np.empty((len(values), groups), np.uint32)
    rest = values
    for group in range(groups - 1, -1, -1):
        higher = rest // 10_000
        digits = rest - higher * 10_000
        trimmed = _LAST if group == groups - 1 else _TRIMMED
        text[:, group] = np.where(higher > 0, _PADDED[digits], trimmed[digits]) if group else trimmed[digits]
        rest = higher
    return text.view(np.uint8)


def integer_text(values: Float64Array) -> ByteMatrix:
    """Return whole numbers as padded text ending in ``i``, the line protocol's mark of an integer."""
    integers = values.astype(np.int64)
    return np.hstack([*_signed(integers < 0, integer_digits(np.abs(integers))), _letter(len(values), ord("i"))])


def two_decimals_text(values: Float64Array) -> ByteMatrix:
    """Return numbers that are a whole number of hundredths as padded text with two decimals."""
    hundredths = np.rint(values * 100.0).astype(np.int64)
    magnitude = np.abs(hundredths)
    whole = magnitude // 100
    fraction = _PADDED[magnitude - whole * 100].view(np.uint8).reshape(-1, 4)[:, 2:]
    return np.hstack([*_signed(hundredths < 0, integer_digits(whole)), _letter(len(values), POINT), fraction])


def shortest_text(values: Float64Array) -> ByteMatrix:
    """Return the shortest text that reads back as the very same double, padded."""
    import pyarrow as pa

    text = pa.array(values).cast(pa.string())
    _, offsets_buffer, data_buffer = text.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(values) + 1)
    data = np.frombuffer(data_buffer, np.uint8, int(offsets[-1]))
    lengths = np.diff(offsets)
    out = np.zeros((len(values), int(lengths.max())), np.uint8)
    out[np.arange(out.shape[1]) < lengths[:, None]] = data
    return out


def _signed(negative: npt.NDArray[np.bool_], digits: ByteMatrix) -> list[ByteMatrix]:
    if not negative.any():
        return [digits]
    return [np.where(negative, MINUS, 0).astype(np.uint8)[:, None], digits]


def _letter(rows: int, byte: int) -> ByteMatrix:
    return np.full((rows, 1), byte, np.uint8)


class LineEncoder:
    """Turns blocks into line protocol: nanosecond times, steps in time order, measurements, then hosts.

    Rows are laid out in a matrix with NUL padding wherever a text can be shorter, and one pass takes the NULs
    out.
    """

    def __init__(self, generator: DevopsGenerator) -> None:
        self._shape = generator.shape
        self._prefixes = {
            measurement.name: _prefix_matrix(generator, measurement) for measurement in self._shape.measurements
        }

    def texts(self, block: Block, *, one_field: bool = False) -> Iterator[bytes]:
        """Yield the block's text in time order, in pieces of one or more whole steps.

        ``one_field`` writes only the first field of the first measurement.
        """
        measurements = self._shape.measurements[:1] if one_field else self._shape.measurements
        steps_at_once = max(1, ROWS_AT_ONCE // (self._shape.hosts * len(measurements)))
        for first in range(0, len(block.times), steps_at_once):
            steps = slice(first, min(first + steps_at_once, len(block.times)))
            padded = [
                self._padded(block, measurement, steps, slice(0, 1) if one_field else slice(None)).reshape(
                    steps.stop - steps.start, -1
                )
                for measurement in measurements
            ]
            together = np.hstack(padded) if len(padded) > 1 else padded[0]
            yield together.tobytes().translate(None, b"\0")

    def _padded(self, block: Block, measurement: Measurement, steps: slice, fields: slice) -> ByteMatrix:
        """Return the lines of some steps of one measurement as uint8[steps * hosts, width], NUL where nothing
        is.
        """
        times = block.times[steps]
        rows = len(times) * self._shape.hosts
        prefix = self._prefixes[measurement.name]
        parts = [np.broadcast_to(prefix, (len(times), *prefix.shape)).reshape(rows, -1)]
        described = measurement.fields[fields]
        columns = block.columns[measurement.name][fields, steps]
        for index, (field, column) in enumerate(zip(described, columns, strict=True)):
            parts.append(_repeated(f"{' ' if index == 0 else ','}{field.name}=".encode(), rows))
            values = column.reshape(-1)
            if self._shape.values == "two-decimals":
                parts.append(two_decimals_text(values))
            elif self._shape.values == "full" or field.fractional:
                parts.append(shortest_text(values))
            else:
                parts.append(integer_text(values))
        parts.append(_repeated(b" ", rows))
        parts.append(np.repeat(integer_digits(times), self._shape.hosts, axis=0))
        parts.append(_repeated(b"\n", rows))
        return np.hstack(parts)


def line_batches(
    generator: DevopsGenerator, lines_per_batch: int = 10_000, *, one_field: bool = False
) -> Iterator[bytes]:
    """Yield the whole data set as batches of exactly ``lines_per_batch`` lines (the last one may be shorter).

    ``one_field`` writes only the first field of the first measurement, one sample a line.
    """
    encoder = LineEncoder(generator)
    pending: list[bytes] = []
    pending_lines = 0
    for block in generator.blocks():
        for text in encoder.texts(block, one_field=one_field):
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE) + 1
            start, used = 0, 0
            while pending_lines + len(ends) - used >= lines_per_batch:
                used += lines_per_batch - pending_lines
                end = int(ends[used - 1])
                yield b"".join((*pending, text[start:end]))
                pending, pending_lines, start = [], 0, end
            if start < len(text):
                pending.append(text[start:])
                pending_lines += len(ends) - used
    if pending:
        yield b"".join(pending)


def record_batches(
    generator: DevopsGenerator, measurement: Measurement, rows_per_batch: int = 100_000
) -> Iterator[Any]:
    """Yield one measurement as Arrow record batches in time order.

    Columns: ``time`` (timestamp[ns, UTC]), the tags (dictionary of int32 to string), the fields (float64).
    """
    import pyarrow as pa

    shape = generator.shape
    steps = max(1, rows_per_batch // shape.hosts)
    dictionaries = []
    for key, values in generator.tag_columns(measurement).items():
        distinct = {value: index for index, value in enumerate(dict.fromkeys(values))}
        codes = np.array([distinct[value] for value in values], np.int32)
        dictionaries.append((key, codes, pa.array(list(distinct), pa.string())))
    for block in generator.blocks(steps * shape.samples_per_step):
        names, arrays = ["time"], [pa.array(np.repeat(block.times, shape.hosts), pa.timestamp("ns", "UTC"))]
        for key, codes, values in dictionaries:
            names.append(key)
            indices = pa.array(np.tile(codes, len(block.times)))
            arrays.append(pa.DictionaryArray.from_arrays(indices, values))
        for field, column in zip(measurement.fields, block.columns[measurement.name], strict=True):
            names.append(field.name)
            arrays.append(pa.array(column.reshape(-1)))
        yield pa.record_batch(arrays, names=names)


def _prefix_matrix(generator: DevopsGenerator, measurement: Measurement) -> ByteMatrix:
    """Return measurement and tags of each host as uint8[hosts, width], padded with NUL on the right."""
    columns = generator.tag_columns(measurement)
    texts = [
        ",".join([measurement.name, *(f"{key}={values[host]}" for key, values in columns.items())]).encode()
        for host in range(generator.shape.hosts)
    ]
    width = max(len(text) for text in texts)
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), np.uint8).reshape(-1, width)


def _repeated(text: bytes, rows: int) -> ByteMatrix:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (rows, len(text)))
