"""Rows of an answer as bytes of a file: CSV, Arrow IPC stream, line protocol, Prometheus text.

Each encoder is given one window of rows after another and returns what is appended to the file, so that a file may be
cut off behind any window and continued there.  What a format cannot hold is counted in ``left_out`` by reason.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from engine.errors import BadRequest
from engine.query.results import csv_column

#: End of an Arrow IPC stream: a continuation marker and the length 0 (Arrow columnar format, "IPC streaming format").
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_METRIC_NAME = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
METRIC_LABEL = "__name__"
TIME = "time"
#: How polars writes infinities -> how Prometheus, and answers to SQL, do.
_INFINITIES = {"inf": "+Inf", "-inf": "-Inf"}
#: The NaN that the text ``NaN`` is read as, and the parts of a float64.
_PLAIN_NAN, _EXPONENT, _PAYLOAD = np.uint64(0x7FF8 << 48), np.uint64(0x7FF0 << 48), np.uint64((1 << 52) - 1)


@dataclass(frozen=True, slots=True)
class Wide:
    """What the columns of wide rows are: ``(column, name)`` of each tag and field; the time is in ``time``."""

    measurement: str
    tags: tuple[tuple[str, str], ...]
    fields: tuple[tuple[str, str], ...]
    pooled: bool = False


class Encoder(Protocol):
    """Turns windows of rows into bytes.  ``left_out``: reason -> rows or values that the format cannot hold."""

    left_out: dict[str, int]

    def begin(self, schema: pa.Schema) -> bytes: ...

    def encode(self, table: pa.Table) -> bytes: ...

    def end(self) -> bytes: ...


def _count_payloads(left_out: dict[str, int], values: pl.Series) -> None:
    """Count NaNs whose bits are lost as text."""
    if values.dtype == pl.Float64:
        bits = values.drop_nulls().to_numpy().view(np.uint64)
        lost = (bits & _PAYLOAD != 0) & (bits & _EXPONENT == _EXPONENT) & (bits != _PLAIN_NAN)
        _count(left_out, "a NaN of special bits (a stale marker, say), written as NaN", int(lost.sum()))


def _count(left_out: dict[str, int], reason: str, count: int) -> None:
    if count:
        left_out[reason] = left_out.get(reason, 0) + count


class Packed:
    """The bytes of another encoder compressed, a stream of its own for each window: readers join such streams."""

    def __init__(self, encoder: Encoder, codec: str) -> None:
        """``codec``: "gzip" or "zstd"."""
        self._encoder = encoder
        self._pack = gzip.compress if codec == "gzip" else _zstd
        self.left_out = encoder.left_out

    def begin(self, schema: pa.Schema) -> bytes:
        return self._packed(self._encoder.begin(schema))

    def encode(self, table: pa.Table) -> bytes:
        return self._packed(self._encoder.encode(table))

    def end(self) -> bytes:
        return self._packed(self._encoder.end())

    def _packed(self, data: bytes) -> bytes:
        return self._pack(data) if data else b""


def _zstd(data: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


class CsvEncoder:
    """RFC 4180 with a header; times RFC 3339, floats as short as they can be read back, absent cells empty.

    NaN and infinities are ``NaN``, ``+Inf`` and ``-Inf``, as in answers to SQL.
    """

    def __init__(self, delimiter: str = ",", *, keep_line_breaks: bool = False) -> None:
        """``keep_line_breaks``: rows with line breaks in a cell are written too, which the import cannot read."""
        self.left_out: dict[str, int] = {}
        self._delimiter, self._keep_line_breaks = delimiter, keep_line_breaks

    def begin(self, schema: pa.Schema) -> bytes:
        sink = io.StringIO()
        csv.writer(sink, delimiter=self._delimiter, lineterminator="\n").writerow(schema.names)
        return sink.getvalue().encode()

    def encode(self, table: pa.Table) -> bytes:
        flat = []
        for column in table.columns:
            kind = column.type
            if pa.types.is_timestamp(kind):
                column = column.cast(pa.timestamp(kind.unit))
            elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_string(kind)):
                column = csv_column(column)
            flat.append(column)
        # A data frame has each name once; an answer need not.
        frame = pl.DataFrame(pa.table(flat, names=[str(number) for number in range(len(flat))]))
        texts = [name for name, kind in frame.schema.items() if kind == pl.String]
        if texts and len(frame) and not self._keep_line_breaks:
            broken = pl.any_horizontal(pl.col(name).str.contains(r"[\r\n]") for name in texts).fill_null(False)
            whole = frame.filter(~broken)
            reason = "a line break in a cell, which the import of CSV cannot read"
            _count(self.left_out, reason, len(frame) - len(whole))
            frame = whole
        times = [
            pl.col(name).dt.to_string("%Y-%m-%dT%H:%M:%S%.fZ")
            for name, kind in frame.schema.items()
            if isinstance(kind, pl.Datetime)
        ]
        special = [
            _number(pl.col(name)).replace(_INFINITIES)
            for name, kind in frame.schema.items()
            if kind.is_float() and not frame.select(pl.col(name).is_finite().all()).item()
        ]
        for expression in special:
            _count_payloads(self.left_out, frame[expression.meta.output_name()])
        sink = io.BytesIO()
        frame.with_columns(*times, *special).write_csv(sink, include_header=False, separator=self._delimiter)
        return sink.getvalue()

    def end(self) -> bytes:
        return b""


class ArrowEncoder:
    """An Arrow IPC stream, to which batches can be appended after a stop."""

    def __init__(self, compression: str | None = None) -> None:
        self.left_out: dict[str, int] = {}
        self._options = pa.ipc.IpcWriteOptions(compression=compression)
        self._schema: pa.Schema | None = None

    def begin(self, schema: pa.Schema) -> bytes:
        self._schema = schema
        return self._written(schema.empty_table())

    def encode(self, table: pa.Table) -> bytes:
        prefix = len(self._written(table.schema.empty_table()))
        return self._written(table)[prefix:]

    def _written(self, table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=self._options) as writer:
            if table.num_rows:
                writer.write_table(table)
        return bytes(sink.getvalue())[: -len(_END_OF_STREAM)]

    def end(self) -> bytes:
        return _END_OF_STREAM


class LineEncoder:
    """Influx line protocol (docs/line-protocol.md), a line a row, times in nanoseconds."""

    def __init__(self, wide: Wide) -> None:
        """Raises BadRequest for a name that line protocol cannot hold."""
        self.left_out: dict[str, int] = {}
        self._measurement = _line_name(wide.measurement, ", ")
        if wide.measurement.startswith("#"):
            raise BadRequest(f"cannot write {wide.measurement!r} as line protocol: such a line would be a comment")
        self._tags = [(column, _line_name(name, ",= ")) for column, name in sorted(wide.tags, key=lambda each: each[1])]
        self._fields = [(column, _line_name(name, ",= ")) for column, name in wide.fields]

    def begin(self, schema: pa.Schema) -> bytes:
        return b""

    def encode(self, table: pa.Table) -> bytes:
        frame = _frame(table)
        tags = [column for column, _ in self._tags]
        if tags and len(frame):
            broken = pl.any_horizontal(pl.col(name).str.contains(r"\n|\\$") for name in tags).fill_null(False)
            whole = frame.filter(~broken)
            _count(self.left_out, "a tag with a line break or a backslash at its end", len(frame) - len(whole))
            frame = whole
        head = [pl.lit(self._measurement)]
        for column, name in self._tags:
            value = pl.col(column)
            for character in ", =":
                value = value.str.replace_all(character, f"\\{character}", literal=True)
            head.append(pl.concat_str([pl.lit(f",{name}="), value]))
        cells = []
        for column, name in self._fields:
            value, finite = pl.col(column), pl.lit(True)
            if frame.schema[column].is_float():
                finite = value.is_finite()
                _count(self.left_out, "NaN or an infinity", frame.select((~value.is_finite()).sum()).item() or 0)
            cells.append(pl.when(finite).then(pl.concat_str([pl.lit(f"{name}="), _number(value)])))
        lines = frame.select(
            pl.concat_str(head, ignore_nulls=True).alias("head"),
            pl.concat_str(cells, separator=",", ignore_nulls=True).alias("fields"),
            pl.col(TIME).cast(pl.Int64).cast(pl.String).alias("time"),
        ).filter(pl.col("fields").str.len_bytes() > 0)
        return _joined(lines.select(pl.concat_str(["head", "fields", "time"], separator=" ")).to_series())

    def end(self) -> bytes:
        return b""


class PrometheusEncoder:
    """Prometheus text: a line a sample, with times in milliseconds, in OpenMetrics in seconds."""

    def __init__(self, wide: Wide, *, open_metrics: bool = False) -> None:
        self.left_out: dict[str, int] = {}
        self._wide, self._open_metrics = wide, open_metrics

    def begin(self, schema: pa.Schema) -> bytes:
        return b""

    def encode(self, table: pa.Table) -> bytes:
        frame = _frame(table)
        if not self._open_metrics:
            whole = frame.filter(pl.col(TIME).cast(pl.Int64) % 1_000_000 == 0)
            reason = "a time finer than milliseconds (a name that ends in .openmetrics keeps nanoseconds)"
            _count(self.left_out, reason, len(frame) - len(whole))
            frame = whole
        named = next((column for column, name in self._wide.tags if name == METRIC_LABEL), None)
        labels = []
        for column, name in self._wide.tags:
            if column != named:
                key = name if _LABEL_NAME.fullmatch(name) else f'"{_quoted_text(name)}"'
                labels.append(pl.concat_str([pl.lit(f'{key}="'), _escaped(pl.col(column)), pl.lit('"')]))
        inside = pl.concat_str(labels, separator=",", ignore_nulls=True) if labels else pl.lit("")
        parts = []
        for column, field in self._wide.fields:
            if frame.schema[column].is_float():
                _count_payloads(self.left_out, frame[column])
            metric = pl.lit(f"{self._wide.measurement}_{field}") if named is None else pl.col(named)
            parts.append(
                frame.filter(pl.col(column).is_not_null()).select(
                    metric.alias("name"),
                    inside.alias("labels"),
                    _number(pl.col(column)).alias("value"),
                    pl.col(TIME).cast(pl.Int64).alias("time"),
                )
            )
        samples = pl.concat(parts)
        quoted = pl.concat_str([pl.lit('"'), _escaped(pl.col("name")), pl.lit('"')])
        plain = pl.col("name").str.contains(_METRIC_NAME)
        within = pl.concat_str(
            [pl.when(~plain).then(quoted), pl.when(pl.col("labels") != "").then(pl.col("labels"))],
            separator=",",
            ignore_nulls=True,
        )
        lines = samples.select(
            pl.concat_str(
                [
                    pl.when(plain).then(pl.col("name")).otherwise(pl.lit("")).fill_null(""),
                    pl.lit("{"),
                    within,
                    pl.lit("} "),
                    pl.col("value").replace(_INFINITIES),
                    pl.lit(" "),
                    self._time(),
                ]
            )
        )
        return _joined(lines.to_series())

    def _time(self) -> pl.Expr:
        time = pl.col("time")
        if not self._open_metrics:
            return (time // 1_000_000).cast(pl.String)
        size = time.abs()
        sign = pl.when(time < 0).then(pl.lit("-")).otherwise(pl.lit(""))
        whole, rest = (size // 1_000_000_000).cast(pl.String), (size % 1_000_000_000).cast(pl.String)
        return pl.concat_str([sign, whole, pl.lit("."), rest.str.zfill(9)])

    def end(self) -> bytes:
        return b"# EOF\n" if self._open_metrics else b""


def wide_of(schema: pa.Schema, measurement: str) -> Wide:
    """Return what the columns of any answer are to line protocol: ``time``, texts as tags, numbers as fields.

    Raises BadRequest for an answer without such columns, or with others.
    """
    if TIME not in schema.names or not pa.types.is_timestamp(schema.field(TIME).type):
        raise BadRequest(f"cannot write samples: the answer has no column time, only {', '.join(schema.names)}")
    tags, fields = [], []
    for field in schema:
        kind = field.type
        if field.name == TIME:
            continue
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
            tags.append((field.name, field.name))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            fields.append((field.name, field.name))
        else:
            raise BadRequest(
                f"cannot write samples: column {field.name!r} is {kind}, want text (tags) or numbers (fields)"
            )
    if not fields:
        raise BadRequest("cannot write samples: the answer has no column of numbers")
    return Wide(measurement, tuple(tags), tuple(fields))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(table)
    return frame.with_columns(pl.col(TIME).cast(pl.Datetime("ns")))


def _number(value: pl.Expr) -> pl.Expr:
    return value.cast(pl.String)


def _escaped(text: pl.Expr) -> pl.Expr:
    for plain, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.str.replace_all(plain, escape, literal=True)
    return text


def _quoted_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _line_name(name: str, special: str) -> str:
    if "\n" in name or name.endswith("\\"):
        raise BadRequest(
            f"cannot write {name!r} as line protocol: a name may not hold a line break or end in a backslash"
        )
    return "".join(f"\\{character}" if character in special else character for character in name)


def _joined(lines: pl.Series) -> bytes:
    if not len(lines):
        return b""
    return ("\n".join(lines.to_list()) + "\n").encode()
