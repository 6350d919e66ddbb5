"""Line protocol, read slowly: one line, one byte, one dictionary at a time.

`LineDecoder.decode` returns what the native decoder must return, with rows instead of columns.  Values come
from `float` and `int`, names from slices; a delimiter is escaped when the byte before it is a backslash.
`Twins` runs both and compares.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np

from native import catalogue, lineprotocol
from native.columns import ABSENT_BITS
from tests.oracles.catalogue import Catalogue

BACKSLASH = ord("\\")
FLOAT = re.compile(rb"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
INTEGER = re.compile(rb"(-?)([0-9]+)([iu])")
NOT_FINITE = re.compile(rb"[+-]?(nan|inf|infinity)", re.IGNORECASE)
TIMESTAMP = re.compile(rb"(-?[0-9]+) *")
BOOLEANS = dict.fromkeys([b"t", b"T", b"true", b"True", b"TRUE"], 1.0) | dict.fromkeys(
    [b"f", b"F", b"false", b"False", b"FALSE"], 0.0
)


class RefusedError(Exception):
    """The line, or the field, is refused for this cause."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass
class Row:
    line_number: int
    table_id: int
    tagset_id: int
    time: int
    values: dict[int, float]


@dataclass
class DecodedLines:
    rows: list[Row] = field(default_factory=list)
    lines: int = 0
    samples: int = 0
    rounded: int = 0
    refused_by_cause: dict[str, int] = field(default_factory=dict)
    refusals: list[tuple[int, str, bytes]] = field(default_factory=list)


def find_unescaped(text: bytes, delimiters: bytes, start: int) -> int:
    """Return where the first delimiter without a backslash before it is, or the length of the text."""
    for at in range(start, len(text)):
        if text[at] in delimiters and (at == start or text[at - 1] != BACKSLASH):
            return at
    return len(text)


def unescape(text: bytes) -> bytes:
    return re.sub(rb"\\([,= ])", rb"\1", text)


def checked_name(text: bytes, longest: int = 65535) -> bytes:
    name = unescape(text)
    if len(name) > longest:
        raise RefusedError("malformed")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError("not_utf8") from None
    return name


def read_key(key: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return measurement and tags."""
    end = find_unescaped(key, b",", 0)
    if end == 0:
        raise RefusedError("malformed")
    measurement = checked_name(key[:end])
    tags = []
    while end < len(key):
        start = end + 1
        equals = find_unescaped(key, b"=,", start)
        if equals in (start, len(key)) or key[equals] == ord(","):
            raise RefusedError("malformed")
        name = checked_name(key[start:equals])
        end = find_unescaped(key, b"=,", equals + 1)
        if end == equals + 1 or (end < len(key) and key[end] == ord("=")):
            raise RefusedError("malformed")
        tags.append((name, checked_name(key[equals + 1 : end], 1 << 20)))
    if 4 + sum(6 + len(name) + len(value) for name, value in tags) > 1 << 20:
        raise RefusedError("malformed")
    if len({name for name, _ in tags}) < len(tags):
        raise RefusedError("duplicate_tag")
    return measurement, tags


def string_end(line: bytes, start: int) -> int:
    """Return where the string that begins at `start` ends, its closing quote included."""
    at = start + 1
    while at < len(line):
        if line[at] == ord('"'):
            return at + 1
        at += 2 if line[at : at + 2] in (b'\\"', b"\\\\") else 1
    raise RefusedError("malformed")


def read_value(text: bytes) -> tuple[float, bool]:
    """Return the value and whether it is an integer that had to be rounded."""
    if text in BOOLEANS:
        return BOOLEANS[text], False
    integer = INTEGER.fullmatch(text)
    if integer:
        sign, digits, suffix = integer.groups()
        if suffix == b"u" and sign:
            raise RefusedError("malformed")
        number = int(sign + digits)
        low, high = (-(2**63), 2**63) if suffix == b"i" else (0, 2**64)
        if not low <= number < high:
            raise RefusedError("out_of_range")
        return float(number), int(float(number)) != number
    if NOT_FINITE.fullmatch(text):
        raise RefusedError("not_finite")
    if not FLOAT.fullmatch(text):
        raise RefusedError("malformed")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise RefusedError("not_finite")
    return value, False


class LineDecoder:
    def __init__(
        self, catalogue: Catalogue, *, max_tagsets: int, max_tables: int, max_fields: int, max_refusals: int
    ) -> None:
        self.catalogue = catalogue
        self.max_tagsets = max_tagsets
        self.max_tables = max_tables
        self.max_fields = max_fields
        self.max_refusals = max_refusals

    def decode(
        self, body: bytes, *, precision_ns: int, default_time_ns: int, min_time_ns: int, max_time_ns: int
    ) -> DecodedLines:
        self.times = (precision_ns, default_time_ns, min_time_ns, max_time_ns)
        result = DecodedLines()
        lines = body.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        for number, line in enumerate(lines, 1):
            line = line.removesuffix(b"\r")
            stripped = line.lstrip(b" ")
            if not stripped or stripped.startswith(b"#"):
                continue
            result.lines += 1
            try:
                causes = self.read_line(result, number, stripped)
            except RefusedError as refused:
                causes = [refused.cause]
            for cause in causes:
                result.refused_by_cause[cause] = result.refused_by_cause.get(cause, 0) + 1
            for cause in dict.fromkeys(causes):
                if len(result.refusals) < self.max_refusals:
                    result.refusals.append((number, cause, line[:200]))
        return result

    def read_line(self, result: DecodedLines, number: int, line: bytes) -> list[str]:
        """Keep the line's row and return the causes for which fields of it were refused."""
        key_end = find_unescaped(line, b" ", 0)
        fields_at = key_end + len(line[key_end:]) - len(line[key_end:].lstrip(b" "))
        if fields_at == len(line):
            raise RefusedError("malformed")
        measurement, tags = read_key(line[:key_end])
        fields, causes, end = self.read_fields(line, fields_at)
        time = self.read_time(line[end:].lstrip(b" "))
        if not fields:
            return causes

        catalogue = self.catalogue
        table_id = catalogue.find_table(measurement)
        if table_id < 0 and len(catalogue.tables) >= self.max_tables:
            raise RefusedError("table_limit")
        if (table_id < 0 or catalogue.find_tagset(table_id, tags) < 0) and len(catalogue.tagsets) >= self.max_tagsets:
            raise RefusedError("tag_set_limit")
        known = [] if table_id < 0 else catalogue.fields(table_id)
        kept = []
        for name, value, rounded in fields:
            if name not in known:
                if len(known) >= self.max_fields:
                    causes.append("field_limit")
                    continue
                known.append(name)
            kept.append((name, value, rounded))
        if not kept:
            return causes

        table_id = catalogue.table(measurement)
        tagset_id = catalogue.tagset(table_id, tags)
        cells = {catalogue.field(table_id, name): (value, rounded) for name, value, rounded in kept}
        result.samples += len(cells)
        result.rounded += sum(rounded for _, rounded in cells.values())
        values = {field_id: value for field_id, (value, _) in cells.items()}
        result.rows.append(Row(number, table_id, tagset_id, time, values))
        return causes

    def read_fields(self, line: bytes, at: int) -> tuple[list[tuple[bytes, float, bool]], list[str], int]:
        """Return (name, value, rounded) of fields kept, the causes of those refused, and where they end."""
        fields, causes = [], []
        while True:
            equals = find_unescaped(line, b"=, ", at)
            if equals in (at, len(line)) or line[equals] != ord("="):
                raise RefusedError("malformed")
            name = checked_name(line[at:equals])
            at = equals + 1
            if line[at : at + 1] in (b"", b",", b" "):
                raise RefusedError("malformed")
            if line[at] == ord('"'):
                at = string_end(line, at)
                if line[at : at + 1] not in (b"", b",", b" "):
                    raise RefusedError("malformed")
                causes.append("string_field")
            else:
                end = re.compile(rb"[^, ]*").match(line, at).end()  # type: ignore[union-attr]
                try:
                    fields.append((name, *read_value(line[at:end])))
                except RefusedError as refused:
                    if refused.cause == "malformed":
                        raise
                    causes.append(refused.cause)
                at = end
            if line[at : at + 1] != b",":
                return fields, causes, at
            at += 1

    def read_time(self, text: bytes) -> int:
        precision, time, earliest, latest = self.times
        if text:
            found = TIMESTAMP.fullmatch(text)
            if not found:
                raise RefusedError("malformed")
            written = int(found[1])
            unit = precision
            if precision == 0:
                size = abs(written)
                unit = 10**9 if size < 5e9 else 10**6 if size < 5e12 else 10**3 if size < 5e15 else 1
            time = written * unit
            if abs(written) >= 2**63 or not -(2**63) <= time < 2**63:
                raise RefusedError("too_old" if written < 0 else "too_far_in_future")
        if time < earliest:
            raise RefusedError("too_old")
        if time > latest:
            raise RefusedError("too_far_in_future")
        return time


class Twins:
    """The native decoder and this one side by side; every call compares all they return and define."""

    def __init__(
        self,
        *,
        max_tagsets: int = 1000,
        max_tables: int = 100,
        max_fields: int = 100,
        max_refusals: int = 1000,
    ) -> None:
        limits = {
            "max_tagsets": max_tagsets,
            "max_tables": max_tables,
            "max_fields": max_fields,
            "max_refusals": max_refusals,
        }
        self.catalogue = catalogue.Catalogue()
        self.decoder = lineprotocol.LineDecoder(self.catalogue, **limits)
        # Knows every longer series key by its fingerprint alone.
        self.lean_catalogue = catalogue.Catalogue()
        self.lean_decoder = lineprotocol.LineDecoder(self.lean_catalogue, **limits, max_key_text=0)
        self.slow_catalogue = Catalogue()
        self.slow_decoder = LineDecoder(self.slow_catalogue, **limits)

    def decode(
        self,
        body: bytes,
        *,
        precision_ns: int = 1,
        default_time_ns: int = 1_000,
        min_time_ns: int = -(2**63),
        max_time_ns: int = 2**63 - 1,
    ) -> lineprotocol.DecodedLines:
        times = {
            "precision_ns": precision_ns,
            "default_time_ns": default_time_ns,
            "min_time_ns": min_time_ns,
            "max_time_ns": max_time_ns,
        }
        fast = self.decoder.decode(body, **times)
        lean = self.lean_decoder.decode(body, **times)
        assert rows_of(lean) == rows_of(fast)
        assert lean.refusals == fast.refusals
        slow = self.slow_decoder.decode(body, **times)
        assert fast.lines == slow.lines
        assert fast.refused_by_cause == slow.refused_by_cause
        assert [(number, cause, line) for number, cause, _, line in fast.refusals] == slow.refusals
        assert rows_of(fast) == [comparable(row) for row in slow.rows]
        assert (fast.samples, fast.rounded) == (slow.samples, slow.rounded)
        # Tables come in the order of their first row, and only fields that some row has set are there.
        assert [table.table_id for table in fast.tables] == list(dict.fromkeys(row.table_id for row in slow.rows))
        for table in fast.tables:
            rows = [row for row in slow.rows if row.table_id == table.table_id]
            assert table.field_ids == tuple(sorted({field_id for row in rows for field_id in row.values}))
        mark = self.catalogue.mark()
        assert mark == self.slow_catalogue.mark()
        assert self.catalogue.definitions((0, 0, 0), mark) == self.slow_catalogue.definitions((0, 0, 0), mark)
        return fast

    def named_rows(self, body: bytes, **times: int) -> list[NamedRow]:
        """Decode and return (table, tags, time, {field: value}) for each row."""
        named = []
        for _, table_id, tagset_id, time, cells in rows_of(self.decode(body, **times)):
            names = self.catalogue.fields(table_id)
            values = {names[field_id]: struct.unpack("<d", bits)[0] for field_id, bits in cells}
            named.append((self.catalogue.table_name(table_id), self.catalogue.tags(tagset_id), time, values))
        return named


NamedRow = tuple[bytes, list[tuple[bytes, bytes]], int, dict[bytes, float]]
ComparableRow = tuple[int, int, int, int, tuple[tuple[int, bytes], ...]]


def comparable(row: Row) -> ComparableRow:
    cells = tuple((field_id, struct.pack("<d", value)) for field_id, value in sorted(row.values.items()))
    return row.line_number, row.table_id, row.tagset_id, row.time, cells


def rows_of(decoded: lineprotocol.DecodedLines) -> list[ComparableRow]:
    """Return the rows of all tables in the order of their lines, after a look at the arrays they lie in."""
    rows = []
    for table in decoded.tables:
        n = len(table.times)
        arrays = (table.tagset_ids, table.times, table.line_numbers, table.values)
        assert [array.dtype for array in arrays] == [np.int32, np.int64, np.int32, np.float64]
        assert [array.shape for array in arrays] == [(n,), (n,), (n,), (len(table.field_ids), n)]
        assert all(array.flags.c_contiguous and array.flags.owndata for array in arrays)
        bits = table.values.view(np.uint64)
        for index in range(n):
            cells = tuple(
                (field_id, struct.pack("<d", table.values[position, index]))
                for position, field_id in enumerate(table.field_ids)
                if bits[position, index] != ABSENT_BITS
            )
            rows.append(
                (
                    int(table.line_numbers[index]),
                    table.table_id,
                    int(table.tagset_ids[index]),
                    int(table.times[index]),
                    cells,
                )
            )
    return sorted(rows)
