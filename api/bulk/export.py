"""Windows of time read one after another and appended to a file, which can be continued after a stop.

A window is as wide as gives about ``TARGET_BYTES``, so memory does not grow with what is exported.  Rows that arrive in
windows that are already written are not in the file; rows newer than the newest at the start are neither.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from api.bulk.encode import Encoder
from api.bulk.patience import PATIENCE_SECONDS, patiently
from api.bulk.selection import Selection, Source
from api.bulk.tables import file_metadata
from engine.clock import Clock
from engine.errors import BadRequest, QueryLimit
from engine.model.rows import FOREVER_NS, NEVER_NS

#: About so many bytes of Arrow data a window.
TARGET_BYTES = 16 << 20
#: Rows a page where a single instant has more than one answer may hold.
PAGE_ROWS = 100_000
#: How often it is noted how far an export has come, in seconds.
SAVE_SECONDS = 2.0
#: Rows a row group of Parquet.
ROW_GROUP_ROWS = 262_144
STATE_VERSION = 1
_T = TypeVar("_T")


class State(msgspec.Struct, kw_only=True):
    """How far an export has come: everything before ``next_ns`` of selection number ``at`` is in the first ``bytes``.

    ``options`` identifies the export; one with others begins anew.  ``rows_total`` is 0 where it is not known.
    """

    version: int = STATE_VERSION
    options: str
    start_ns: int | None = None
    end_ns: int | None = None
    selections: list[Selection] = []
    bounds: list[tuple[int, int]] = []
    rows_total: int = 0
    at: int = 0
    next_ns: int | None = None
    width_ns: int = 0
    bytes: int = 0
    rows: int = 0
    left_out: dict[str, int] = {}


class PartialFile:
    """The file that an export appends to, with its state beside it; ``finish`` gives it its name.

    Without a path everything goes to standard output, and nothing can be continued.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.partial, self._state = (f"{path}.partial", f"{path}.progress") if path else ("", "")
        self._file: BinaryIO | None = None
        self._noted = b""

    def found(self, options: str) -> State | None:
        """Return the state of an earlier export with the same options that has stopped on its way."""
        if self.path is None:
            return None
        try:
            with open(self._state, "rb") as file:
                state = msgspec.json.decode(file.read(), type=State)
            size = os.path.getsize(self.partial)
        except (OSError, msgspec.MsgspecError):
            return None
        fits = state.version == STATE_VERSION and state.options == options and size >= state.bytes
        return state if fits else None

    def open(self, keep_bytes: int) -> None:
        """Open for appending behind the first ``keep_bytes``."""
        if self.path is None:
            self._file = sys.stdout.buffer
            return
        try:
            self._file = open(self.partial, "r+b" if keep_bytes else "wb")  # noqa: SIM115
        except OSError as error:
            raise BadRequest(f"cannot write {self.partial}: {error.strerror or error}") from None
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)

    def append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)

    def note(self, state: State) -> None:
        """Take ``state`` for where to continue from: everything that it counts has been appended."""
        self._noted = msgspec.json.encode(state)

    def save(self) -> None:
        """Make what was noted last durable."""
        if self.path is None or not self._noted:
            return
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        temporary = f"{self._state}.tmp"
        with open(temporary, "wb") as file:
            file.write(self._noted)
        os.replace(temporary, self._state)

    def finish(self, *, parquet: bool = False, written: Callable[[int], None] = lambda rows: None) -> None:
        """Give the file its name; with ``parquet`` what was written is an Arrow stream, and is converted."""
        assert self._file is not None
        self._file.flush()
        if self.path is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        if parquet:
            converted = f"{self.partial}.parquet"
            _convert(self.partial, converted, written)
            os.replace(converted, self.path)
            os.unlink(self.partial)
        else:
            os.replace(self.partial, self.path)
        with contextlib.suppress(OSError):
            os.unlink(self._state)

    def close(self) -> None:
        if self._file is not None and self.path is not None:
            self._file.close()


def _convert(stream: str, path: str, written: Callable[[int], None]) -> None:
    """Write an Arrow stream as Parquet, a row group at a time."""
    import pyarrow.parquet as pq

    with (
        pa.OSFile(stream) as source,
        pa.ipc.open_stream(source) as reader,
        pq.ParquetWriter(path, reader.schema, compression="zstd") as writer,
    ):
        waiting: list[pa.RecordBatch] = []
        rows = done = 0
        for batch in reader:
            waiting.append(batch)
            rows += batch.num_rows
            if rows >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting, reader.schema), row_group_size=ROW_GROUP_ROWS)
                done += rows
                written(done)
                waiting, rows = [], 0
        writer.write_table(pa.Table.from_batches(waiting, reader.schema), row_group_size=ROW_GROUP_ROWS)


@dataclass(slots=True)
class Progress:
    """How far an export is, for whoever watches: ``done`` of ``total`` nanoseconds or rows."""

    rows: int
    done: float
    total: float


class Reader:
    """Asks a source, patiently: one that is away or overloaded is asked again."""

    def __init__(
        self,
        source: Source,
        *,
        sleep: Callable[[float], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._source, self._sleep, self._patience = source, sleep, patience_seconds

    def sql(self, statement: str, *parameters: object) -> pa.Table:
        return self._patiently(lambda: self._source.sql(statement, *parameters).arrow)

    def parts(self, statement: str, *parameters: object) -> Iterator[pa.Table]:
        """Yield an answer as it comes, first a part without rows.  Once it has begun there is no asking again."""
        with contextlib.ExitStack() as held:
            answer = self._patiently(lambda: held.enter_context(self._source.sql_stream(statement, *parameters)))
            schema = answer.schema.remove_metadata()
            yield schema.empty_table()
            for batch in answer:
                yield pa.Table.from_batches([batch]).replace_schema_metadata(None)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        return patiently(ask, patience_seconds=self._patience, sleep=self._sleep, final=(QueryLimit,))


def bounds_of(reader: Reader, selection: Selection, start_ns: int | None, end_ns: int | None) -> tuple[int, int, int]:
    """Return the first time of a selection, the one behind its last, and its rows (0: not known).

    Raises QueryLimit where counting takes too long and the bounds are not given.
    """
    try:
        (row,) = reader.sql(selection.bounds_statement(start_ns, end_ns)).to_pylist()
    except QueryLimit:
        if start_ns is None or end_ns is None:
            raise QueryLimit(
                f"cannot export {selection.relation!r}: finding its first and last time takes too long;"
                " say them with --start and --end"
            ) from None
        return start_ns, end_ns, 0
    if not row["rows"]:
        return 0, 0, 0
    return row["first_ns"], min(row["last_ns"] + 1, FOREVER_NS), row["rows"]


def windows(
    reader: Reader, selection: Selection, state: State, end_ns: int, *, target_bytes: int = TARGET_BYTES
) -> Iterator[pa.Table]:
    """Yield the rows from ``state.next_ns`` to ``end_ns``, ``state`` being at the end of what has been yielded."""
    assert state.next_ns is not None
    while state.next_ns < end_ns:
        stop_ns = min(state.next_ns + max(1, state.width_ns), end_ns)
        try:
            table = reader.sql(selection.statement(state.next_ns, stop_ns))
        except QueryLimit:
            if stop_ns - state.next_ns > 1:
                state.width_ns = (stop_ns - state.next_ns) // 2
                continue
            yield from _pages(reader, selection, state, stop_ns)
            continue
        times = target_bytes / table.nbytes if table.nbytes else 8.0
        state.width_ns = max(1, min(FOREVER_NS, int((stop_ns - state.next_ns) * min(8.0, max(0.1, times)))))
        state.next_ns = stop_ns
        yield table


def _pages(reader: Reader, selection: Selection, state: State, stop_ns: int) -> Iterator[pa.Table]:
    """Yield the rows of one instant that do not fit into one answer."""
    start_ns, offset = state.next_ns, 0
    assert start_ns is not None
    pages = []
    while True:
        page = reader.sql(selection.statement(start_ns, stop_ns, (PAGE_ROWS, offset)))
        pages.append(page)
        offset += page.num_rows
        if page.num_rows < PAGE_ROWS:
            break
    # Only a whole instant is a place to continue from.
    state.next_ns = stop_ns
    yield pa.concat_tables(pages)


def first_width_ns(start_ns: int, end_ns: int, rows: int, row_bytes: int, *, target_bytes: int = TARGET_BYTES) -> int:
    """Return a width for the first window that gives about the target, if rows are evenly spread."""
    span = max(1, end_ns - start_ns)
    if not rows:
        return max(1, span // 1_000)
    return max(1, min(span, int(span * target_bytes / (rows * row_bytes))))


class Exporter:
    """Runs one export into one file."""

    def __init__(
        self,
        reader: Reader,
        file: PartialFile,
        *,
        clock: Clock,
        progressed: Callable[[Progress], None],
        target_bytes: int = TARGET_BYTES,
    ) -> None:
        self._reader, self._file, self._clock = reader, file, clock
        self._progressed, self._target_bytes = progressed, target_bytes
        self._saved = clock.monotonic()

    def selections(self, state: State, encoder_of: Callable[[Selection], Encoder]) -> None:
        """Append the rows of every selection of ``state``, from where it stands."""
        if not state.bounds:
            for each in state.selections:
                first, end, rows = bounds_of(self._reader, each, state.start_ns, state.end_ns)
                state.bounds.append((first, end))
                state.rows_total += rows
        for number in range(state.at, len(state.selections)):
            selection, (start_ns, end_ns) = state.selections[number], state.bounds[number]
            encoder = encoder_of(selection)
            if state.next_ns is None:
                state.next_ns = start_ns
                state.width_ns = first_width_ns(
                    start_ns,
                    end_ns,
                    state.rows_total if len(state.selections) == 1 else 0,
                    16 * len(selection.columns),
                    target_bytes=self._target_bytes,
                )
                if number == 0:
                    self._append(state, encoder.begin(schema_of(selection)))
            for table in windows(self._reader, selection, state, end_ns, target_bytes=self._target_bytes):
                self._window(state, encoder, shaped(table, selection))
            if number == len(state.selections) - 1:
                self._append(state, encoder.end())
            state.at, state.next_ns = number + 1, None

    def statement(
        self, state: State, statement: str, step_ns: int | None, encoder_of: Callable[[pa.Schema], Encoder]
    ) -> None:
        """Append the answer of a statement, with a step one for each window, ``$1`` and ``$2`` being its bounds."""
        encoder: Encoder | None = None
        schema: pa.Schema | None = None
        if state.next_ns is None:
            state.next_ns = state.start_ns or 0
        end_ns = state.end_ns if step_ns is not None and state.end_ns is not None else state.next_ns + 1
        while state.next_ns < end_ns:
            stop_ns = end_ns if step_ns is None else min(state.next_ns + step_ns, end_ns)
            parameters = () if step_ns is None else (rfc3339(state.next_ns), rfc3339(stop_ns))
            for part in self._reader.parts(statement, *parameters):
                if encoder is None:
                    schema, encoder = part.schema, encoder_of(part.schema)
                    if not state.bytes:
                        self._append(state, encoder.begin(schema))
                self._take(state, encoder, part.cast(schema))
            state.next_ns = stop_ns
            self._noted(state)
        if encoder is not None:
            self._append(state, encoder.end())

    def _append(self, state: State, data: bytes) -> None:
        self._file.append(data)
        state.bytes += len(data)

    def _window(self, state: State, encoder: Encoder, table: pa.Table) -> None:
        self._take(state, encoder, table)
        self._noted(state)

    def _take(self, state: State, encoder: Encoder, table: pa.Table) -> None:
        """Append rows that are a window or a part of one."""
        if table.num_rows:
            self._append(state, encoder.encode(table))
        state.rows += table.num_rows
        for reason, count in encoder.left_out.items():
            state.left_out[reason] = state.left_out.get(reason, 0) + count
        encoder.left_out.clear()
        self._progressed(self._progress(state))

    def _noted(self, state: State) -> None:
        """Take the end of a window for where to continue from."""
        self._file.note(state)
        now = self._clock.monotonic()
        if now - self._saved >= SAVE_SECONDS:
            self._file.save()
            self._saved = now

    def _progress(self, state: State) -> Progress:
        if state.rows_total:
            return Progress(state.rows, state.rows, max(state.rows_total, state.rows))
        start_ns, end_ns = state.bounds[state.at] if state.bounds else (state.start_ns or 0, state.end_ns or 1)
        return Progress(state.rows, (state.next_ns or start_ns) - start_ns, max(1, end_ns - start_ns))


def schema_of(selection: Selection) -> pa.Schema:
    """Return the schema of a selection's rows in a file."""
    tags = [pa.field(column, pa.string()) for column, _ in selection.tags]
    fields = [pa.field(column, pa.float64()) for column, _ in selection.fields]
    schema = pa.schema([pa.field("time", pa.timestamp("ns", "UTC")), *tags, *fields])
    return schema.with_metadata(file_metadata(selection.measurement))


def shaped(table: pa.Table, selection: Selection) -> pa.Table:
    """Return an answer's rows with the schema of the file, without those that have no sample."""
    schema = schema_of(selection)
    shaped = table.replace_schema_metadata(None).cast(schema.remove_metadata())
    sampled = None
    for column, _ in selection.fields:
        present = pc.is_valid(shaped[column])
        sampled = present if sampled is None else pc.or_(sampled, present)
    if sampled is not None and not pc.all(sampled, min_count=0).as_py():
        shaped = shaped.filter(sampled)
    return shaped.replace_schema_metadata(schema.metadata)


def rfc3339(time_ns: int) -> str:
    """Return a time as text with nine digits."""
    import numpy as np

    return f"{np.datetime64(max(NEVER_NS + 1, time_ns), 'ns')}Z"
