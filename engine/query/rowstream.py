"""Rows on their way to whoever asked: limited, as Arrow batches, held up by their reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import Cancelled, QueryLimit
from engine.model.rows import Int32Array, Rows
from engine.query.answers import first_of
from engine.query.deadlines import Stop
from engine.query.relations import TIME, Column
from engine.query.rowscan import ScanCounts
from engine.query.widetable import WideTables
from native.columns import is_absent

#: Batches have no more rows.
BATCH_ROWS = 1 << 16
#: Places of tag sets whose numbers span no more than this are looked up in an array.
_MOST_SPAN = 1 << 22


@dataclass(frozen=True, slots=True)
class RowLimits:
    """What an answer may take; ``monotonic``: the clock of its time, in seconds."""

    timeout_seconds: float
    max_rows: int
    max_bytes: int
    monotonic: Callable[[], float]


def too_many(limits: RowLimits) -> QueryLimit:
    return QueryLimit(f"cannot read rows: the answer has more than {limits.max_rows} rows; restrict it or give limit")


def too_large(limits: RowLimits) -> QueryLimit:
    return QueryLimit(
        f"cannot read rows: the answer is larger than {limits.max_bytes} bytes; restrict it, name fewer fields"
        " or give limit"
    )


class Allowance:
    """The time that a question may take, which stands still while its reader is waited for."""

    def __init__(self, limits: RowLimits, stop: Stop) -> None:
        self.limits, self._stop = limits, stop
        self._began = limits.monotonic()
        self._since = self._began
        self._used = 0.0

    @property
    def elapsed_seconds(self) -> float:
        return self.limits.monotonic() - self._began

    def pause(self) -> None:
        self._used += self.limits.monotonic() - self._since

    def resume(self) -> None:
        self._since = self.limits.monotonic()

    def check(self) -> bool:
        """Return False; raises Cancelled once a stop was asked for, QueryLimit once the time is up."""
        if self._stop.asked:
            raise Cancelled("cannot read rows: it was cancelled")
        if self._used + self.limits.monotonic() - self._since > self.limits.timeout_seconds:
            raise QueryLimit(
                f"cannot read rows: it took longer than {self.limits.timeout_seconds:g} s;"
                " restrict the time range or the series"
            )
        return False


class Cut:
    """The first ``limit`` rows of others; ``truncated`` says whether there were more."""

    def __init__(self, parts: Iterator[Rows], limit: int | None, limits: RowLimits) -> None:
        self._parts, self._limit, self._limits = parts, limit, limits
        self.rows = 0
        self.truncated = False

    def __iter__(self) -> Iterator[Rows]:
        """Raises QueryLimit for more rows than an answer may have."""
        for rows in self._parts:
            if self._limit is not None and self.rows + len(rows) > self._limit:
                rows = rows.take(slice(0, self._limit - self.rows))
                self.truncated = True
            self.rows += len(rows)
            if self.rows > self._limits.max_rows:
                raise too_many(self._limits)
            yield rows
            if self.truncated:
                return

    def close(self) -> None:
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()


class BatchMaker:
    """Makes Arrow batches: ``time``, tags as dictionaries of texts, fields as doubles with nulls."""

    def __init__(
        self,
        tables: WideTables,
        tags: Sequence[Column],
        fields: Sequence[Column],
        tagset_ids: Int32Array,
        field_ids: tuple[int, ...],
    ) -> None:
        """``tagset_ids``: of all rows that may come, ascending; ``field_ids``: as they come."""
        self._texts = [tables.texts(column, tagset_ids) for column in tags]
        self._tagset_ids = tagset_ids
        self._lookup: Int32Array | None = None
        self._sources = [field_ids.index(column.field_id) for column in fields]
        self.schema = pa.schema(
            [
                (TIME, pa.timestamp("ns")),
                *((column.name, pa.dictionary(pa.int32(), pa.string())) for column in tags),
                *((column.name, pa.float64()) for column in fields),
            ]
        )

    def batches(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows), BATCH_ROWS):
            yield self._batch(rows.take(slice(start, start + BATCH_ROWS)))

    def _batch(self, rows: Rows) -> pa.RecordBatch:
        columns: list[pa.Array] = [pa.array(rows.times).view(pa.timestamp("ns"))]
        if self._texts:
            places = pa.array(self._places(rows.tagset_ids))
            columns += [texts.take(places) for texts in self._texts]
        for source in self._sources:
            column = np.ascontiguousarray(rows.values[source])
            absent = is_absent(column)
            columns.append(pa.array(column, mask=absent if absent.any() else None))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _places(self, tagset_ids: Int32Array) -> npt.NDArray[np.integer]:
        """Return the place of each tag set among those that may come."""
        known = self._tagset_ids
        first, span = int(known[0]), int(known[-1]) - int(known[0]) + 1
        if span == len(known):
            return tagset_ids - np.int32(first)
        if span > _MOST_SPAN:
            return np.searchsorted(known, tagset_ids)
        if self._lookup is None:
            self._lookup = np.zeros(span, np.int32)
            self._lookup[known - np.int32(first)] = np.arange(len(known), dtype=np.int32)
        places: Int32Array = self._lookup[tagset_ids - np.int32(first)]
        return places


class RowsStream:
    """An answer with what it was made from.  A context manager, which ends it; one thread at a time reads it."""

    def __init__(
        self,
        maker: BatchMaker,
        cut: Cut,
        known: Mapping[str, Any],
        counts: ScanCounts,
        allowance: Allowance,
        why_empty: Callable[[], str],
    ) -> None:
        """``known``: what can be told before the answer; ``why_empty``: says why an answer has no rows."""
        self.known = dict(known)
        self._maker, self._cut, self._counts, self._allowance = maker, cut, counts, allowance
        self._why_empty = why_empty
        self._limits = allowance.limits
        self._batches = self._made()

    @property
    def schema(self) -> pa.Schema:
        return self._maker.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows; raises what ends the answer early."""
        return self._batches

    def begin(self, most_bytes: int) -> tuple[list[pa.RecordBatch], Iterator[pa.RecordBatch] | None]:
        """Read the rows until they are more than ``most_bytes`` of Arrow; the rest comes beside, None without one."""
        return first_of(self._batches, most_bytes)

    def _made(self) -> Iterator[pa.RecordBatch]:
        size = 0
        self._allowance.resume()
        for rows in self._cut:
            for batch in self._maker.batches(rows):
                size += batch.nbytes
                if size > self._limits.max_bytes:
                    raise too_large(self._limits)
                self._allowance.pause()
                yield batch
                self._allowance.resume()
                self._allowance.check()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the answer says about itself (docs/http.md), complete once all rows have been read."""
        told = {
            "rows": self._cut.rows,
            "elapsed_seconds": round(self._allowance.elapsed_seconds, 6),
            **self.known,
            "files": self._counts.files,
            "rows_read": self._counts.rows_read,
            "truncated": self._cut.truncated,
        }
        return told if self._cut.rows else told | {"reason": self._why_empty()}

    def __enter__(self) -> RowsStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self._cut.close()
